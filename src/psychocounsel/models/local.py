"""A local transformers model as a ChatModel. Batched sampling of policies lives in policy/generate.py."""

from __future__ import annotations

import json
from typing import Any

from psychocounsel.models.chat import Completion, Request
from psychocounsel.models.control_tokens import control_tokens, plain_messages


class LocalModel:
    """A causal language model from a folder or the hub, loaded at the first question."""

    kind = "local"
    concurrency = 1

    def __init__(self, path: str) -> None:
        self.name = f"local:{path}"
        self.path = path
        self.loaded: tuple[Any, Any] | None = None

    def can_answer(self, request: Request) -> bool:
        return True

    def prompt(self, request: Request) -> Any:
        """The encoded prompt, `input_ids` of shape (1, tokens). Control tokens in it come from the template alone."""
        tokenizer, _ = self._load()
        return tokenizer.apply_chat_template(
            plain_messages(request.messages, control_tokens(tokenizer)),
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )

    async def send(self, request: Request) -> str:
        import torch

        tokenizer, model = self._load()
        inputs = self.prompt(request).to(model.device)
        temperature = float(request.sampling.get("temperature", 0.0))
        torch.manual_seed(int(request.key(self.kind, self.name)[:8], 16))  # the same request gives the same reply
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                max_new_tokens=int(request.sampling.get("max_tokens", 512)),
                do_sample=temperature > 0,
                pad_token_id=tokenizer.pad_token_id,
                **({"temperature": temperature} if temperature > 0 else {}),
            )
        width = inputs["input_ids"].shape[1]
        tokens = output[0, width:].tolist()
        ended = tokenizer.eos_token_id in tokens
        text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
        counts = {"tokens_in": width, "tokens_out": len(tokens)}
        return json.dumps({"text": text, "finish": "stop" if ended else "length", **counts}, ensure_ascii=False)

    def read(self, raw: str) -> Completion:
        return Completion.model_validate_json(raw)

    def _load(self) -> tuple[Any, Any]:
        from psychocounsel.models.weights import load_policy

        if self.loaded is None:
            self.loaded = load_policy(self.path)
        return self.loaded
