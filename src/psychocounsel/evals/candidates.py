"""Who answers: any model by its string, asked as the responses stage asks, each reply once through the call store."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psychocounsel.errors import UserError
from psychocounsel.evaluate.contest.replies import Replies, Reply
from psychocounsel.evaluate.results import metric_part
from psychocounsel.models import open_models
from psychocounsel.models.calls import ask_all
from psychocounsel.models.chat import ChatModel, Request
from psychocounsel.models.store import CallStore
from psychocounsel.progress import progress
from psychocounsel.recipe import ModelsTable, ResponsesTable
from psychocounsel.records import Speech
from psychocounsel.responses import response_request

NAMED = re.compile(r"(?P<name>\w[\w.-]*)=(?P<model>.+)")  # a name of one's own; none has a colon, all models have
TOKENS_PER_WORD = 2  # English takes about 1.3; other words and alphabets more
TOKENS_OVER = 32  # so that a reply of the length asked for is never cut


@dataclass(frozen=True)
class Policy:
    """A model that answers, under the name that figures carry. `source` is how it was named."""

    name: str
    source: str
    model: ChatModel

    @property
    def recorded(self) -> bool:
        """Whether its replies were made elsewhere: one for each speech, and none can be asked for."""
        return self.model.kind.startswith("recorded:")


def open_policy(text: str, option: str, table: ModelsTable) -> Policy:
    """The one model behind MODEL or NAME=MODEL. Raises UserError when there are several."""
    found = NAMED.fullmatch(text)
    source = found["model"] if found else text
    models = open_models(source, "responses", table)
    if len(models) != 1:
        names = ", ".join(model.name for model in models[:8])
        more = f" and {len(models) - 8} more" if len(models) > 8 else ""
        raise UserError(f"{option} {text}: holds {len(models)} models ({names}{more}); name one: {source}#NAME")
    return Policy(found["name"] if found else models[0].name, source, models[0])


def check_policies(policies: Sequence[Policy]) -> None:
    """Raise a UserError for two policies of one name, or one model compared with itself."""
    names: dict[str, str] = {}
    models: dict[tuple[str, str], str] = {}
    for policy in policies:
        name, model = metric_part(policy.name), (policy.model.kind, policy.model.name)  # as metrics are named
        if model in models:
            raise UserError(
                f"{policy.source} is named twice: it would answer every speech alike and tie with itself; "
                "name another model"
            )
        if name in names:
            raise UserError(
                f"{policy.source} and {names[name]} are both called {policy.name}; "
                f"give one a name of its own: NAME={policy.source}"
            )
        names[name], models[model] = policy.source, policy.name


def answerable(policy: Policy, speeches: Sequence[Speech]) -> set[str]:
    """The ids of the speeches that a policy can answer; of a recorded one those that it has a reply to."""
    table = ResponsesTable()
    return {speech.id for speech in speeches if policy.model.can_answer(response_request(speech, table))}


def requests(
    speeches: Sequence[Speech],
    table: ResponsesTable,
    limits: Mapping[tuple[str, int], int] | None = None,
) -> list[Request]:
    """One request for each speech and sample: `table.samples` of them, or with `limits` those that have one."""
    made = []
    for speech in speeches:
        request = response_request(speech, table)
        for sample in range(table.samples):
            if limits is None:
                made.append(request.model_copy(update={"sample": sample}))
            elif (speech.id, sample) in limits:
                limit = limits[speech.id, sample]
                made.append(_limited(request, limit).model_copy(update={"sample": sample}))
    return made


def _limited(request: Request, limit: int) -> Request:
    """The same question with a length to keep to, and a cap on tokens that only a far longer reply meets."""
    system, *dialogue = request.messages
    told = {**system, "content": f"{system['content']} Use at most {limit} words."}
    cap = TOKENS_PER_WORD * limit + TOKENS_OVER
    return request.model_copy(
        update={"messages": (told, *dialogue), "sampling": {**request.sampling, "max_tokens": cap}}
    )


def answers(policy: Policy, asked: Sequence[Request], store: CallStore) -> Replies:
    """The policy's replies. Refused, filtered and empty ones are kept as such."""
    with progress(f"replies {policy.name}", len(asked)) as advance:
        found = ask_all(
            [(policy.model, request) for request in asked],
            store,
            lambda _: advance(note=store.budget.told() if store.budget else ""),
        )
    return {
        (request.subject["speech_id"], request.sample): Reply(answer.text.strip(), answer.finish, answer.call_id)
        for request, answer in zip(asked, found, strict=True)
    }
