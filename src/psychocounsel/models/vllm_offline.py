"""vLLM in this process: requests that wait together are answered as one batch, which is where vLLM is fast."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.models.chat import Completion, Request
from psychocounsel.models.control_tokens import control_tokens, plain_messages

GATHER_S = 0.05
MOST_AT_ONCE = 512


class VllmModel:
    """`vllm:FOLDER_OR_HUB_ID`, loaded at the first question. Needs the `vllm` extra and a GPU it supports."""

    kind = "vllm"
    concurrency = MOST_AT_ONCE

    def __init__(self, path: str) -> None:
        self.name, self.path = f"vllm:{path}", path
        self.waiting: list[tuple[Request, asyncio.Future[str]]] = []
        self._answering: asyncio.Task[None] | None = None
        self._engine: Any = None

    def can_answer(self, request: Request) -> bool:
        return True

    async def send(self, request: Request) -> str:
        """The answer and its counts as JSON."""
        place: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.waiting.append((request, place))
        if self._answering is None or self._answering.done():
            self._answering = asyncio.create_task(self._answer_all())
        return await place

    async def _answer_all(self) -> None:
        """Batch after batch until nobody waits; one at a time, because the engine is one and no thread may share it."""
        while self.waiting:
            await asyncio.sleep(GATHER_S)
            batch, self.waiting = [(ask, place) for ask, place in self.waiting if not place.done()], []
            if not batch:
                return
            try:
                answers = await asyncio.to_thread(self._answer, [request for request, _ in batch])
            except Exception as error:
                for _, place in batch:
                    if not place.done():
                        place.set_exception(error)
            else:
                for (_, place), answer in zip(batch, answers, strict=True):
                    if not place.done():
                        place.set_result(answer)

    def _answer(self, requests: list[Request]) -> list[str]:
        if self._engine is None:
            self._engine = _load(self.path)
        settings = [_sampling(request, self.kind, self.name) for request in requests]
        control = control_tokens(self._engine.get_tokenizer())
        talks = [plain_messages(request.messages, control) for request in requests]
        try:
            return [_body(output) for output in self._engine.chat(talks, settings, use_tqdm=False)]
        except ValueError as error:  # its words may repeat the client's
            raise UserError(f"{self.name}: vLLM refuses a batch; is a text longer than the model's context?") from error

    def read(self, raw: str) -> Completion:
        return Completion.model_validate_json(raw)


def _load(path: str) -> Any:
    try:
        from vllm import LLM
    except ImportError as error:
        raise UserError(f"vllm:{path}: vLLM is not installed; pip install 'psychocounsel[vllm]'") from error
    return LLM(model=path)


def _sampling(request: Request, kind: str, name: str) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    schema = request.answer_schema
    form = {"json": schema} if schema else {"json_object": True} if request.form == "json" else None
    return SamplingParams(
        temperature=float(request.sampling.get("temperature", 0.0)),
        max_tokens=int(request.sampling.get("max_tokens", 512)),
        seed=int(request.key(kind, name)[:8], 16),  # the same request gives the same reply
        structured_outputs=StructuredOutputsParams(**form) if form else None,
    )


def _body(output: Any) -> str:
    answer = output.outputs[0]
    finish = "length" if answer.finish_reason == "length" else "stop"
    counts = {"tokens_in": len(output.prompt_token_ids or ()), "tokens_out": len(answer.token_ids)}
    return json.dumps({"text": answer.text.strip(), "finish": finish, **counts}, ensure_ascii=False)
