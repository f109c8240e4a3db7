"""One process or many: a model and its optimizer prepared for training, and what processes tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from psychocounsel.errors import UserError
from psychocounsel.models.weights import device
from psychocounsel.recipe import Training
from psychocounsel.training.attention import BLOCK
from psychocounsel.training.batches import Group
from psychocounsel.training.optimizers import open_optimizer
from psychocounsel.training.packed import PackedModel, compiled
from psychocounsel.training.packs import Pack, bins, make_pack

WAIT = timedelta(hours=12)  # others wait this long for the main process, which may be reading texts


@dataclass
class Prepared:
    """A model ready for training: `model` is what is called (wrapped by DDP or FSDP), `packed` the one inside."""

    model: Any
    packed: PackedModel
    optimizer: Any
    accelerator: Any
    settings: Training

    @property
    def main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    @property
    def world(self) -> int:
        return int(self.accelerator.num_processes)

    @cached_property
    def sharded(self) -> bool:
        """Whether parameters are spread over processes (FSDP2), so that every pack is everyone's work."""
        from torch.distributed.tensor import DTensor

        return any(isinstance(parameter, DTensor) for parameter in self.packed.parameters())

    def packs(self, groups: Sequence[Group]) -> Iterator[tuple[Pack, list[Group], bool]]:
        """This process's packs of the groups, the groups in each, and whether it is the last one.

        As many in every process, about equally full, in a fixed order. A process without work gets a pack that does
        not count, because processes meet at every pack.
        """
        dealt = bins([self.size(group) for group in groups], self.settings.token_budget, self.world)
        mine = dealt[self.accelerator.process_index :: self.world]
        smallest = min(range(len(groups)), key=lambda place: groups[place].tokens)
        place = self.accelerator.device
        for number, part in enumerate(mine, 1):
            held = [groups[item] for item in sorted(part) or [smallest]]
            pack = make_pack(held, place, BLOCK if place.type == "cuda" else 1)
            pack.counts = bool(part)
            yield pack, held, number == len(mine)

    def size(self, group: Group) -> int:
        """Tokens that a group takes in memory: of its parts, or of its padded rows."""
        if self.packed.shared:
            return group.tokens
        return len(group.replies) * (len(group.prompt) + max(map(len, group.replies)))

    def summed(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums over processes of figures that every process has, in double precision."""
        if self.world == 1 or not values:
            return dict(values)
        names = sorted(values)
        total = torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.accelerator.device)
        return dict(zip(names, self.accelerator.reduce(total, "sum").tolist(), strict=True))

    def gathered(self, found: dict[int, list[float]]) -> dict[int, list[float]]:
        """What every process found, together."""
        if self.world == 1:
            return found
        from torch.distributed import all_gather_object

        parts: list[Any] = [None] * self.world
        all_gather_object(parts, found)
        return {key: value for part in parts for key, value in part.items()}

    def quiet(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are added up in each process and exchanged with the last pack only."""
        if self.sharded:
            self.model.set_requires_gradient_sync(last)
        if self.sharded or last or self.world == 1:
            return nullcontext()
        return self.accelerator.no_sync(self.model)  # type: ignore[no-any-return]


def meet() -> None:
    """Wait for all processes that were started, and let them talk. Raises UserError when they cannot be seen."""
    open_accelerator(Training(lr=1.0, epochs=1, batch=1, precision="fp32"))


def shared(word: str) -> str:
    """The first process's word, in every process."""
    from torch.distributed import broadcast_object_list

    words = [word]
    broadcast_object_list(words, src=0)
    return words[0]


def main_process() -> bool:
    """Whether this process is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def together() -> None:
    """Wait until every process is here."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def open_accelerator(settings: Training) -> Any:
    """The accelerator of this process. Raises UserError when processes were started that it does not see."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import InitProcessGroupKwargs

    AcceleratorState._reset_state()  # it is one per process, and an earlier stage may have used another precision
    accelerator = Accelerator(
        mixed_precision=precision(settings),
        cpu=device() == "cpu",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=WAIT)],
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != accelerator.num_processes:
        raise UserError(
            f"{started} processes were started, but training sees {accelerator.num_processes}; without a graphics card "
            "export ACCELERATE_USE_CPU=true, and start them with torchrun --standalone --nproc_per_node N"
        )
    return accelerator


def prepare(packed: PackedModel, settings: Training, accelerator: Any = None) -> Prepared:
    """Put a packed model and a new optimizer on the device, in float32 where it is trained, wrapped for all processes.

    A model whose parameters are sharded already is taken as it is. Frozen weights may stay in half precision.
    """
    accelerator = accelerator or open_accelerator(settings)
    half = precision(settings) == "bf16"
    for parameter in packed.parameters():
        stored_half = parameter.dtype in (torch.float16, torch.bfloat16)
        if stored_half and (parameter.requires_grad or not half):
            parameter.data = parameter.data.float()
    packed.eval()  # dropout off; gradients still flow
    if settings.gradient_checkpointing:
        bare = packed.bare
        enable = getattr(bare, "activation_checkpointing_enable", None) or bare.gradient_checkpointing_enable
        enable({"use_reentrant": False})  # named otherwise before transformers 5.24; both take it first
        packed.train()  # layers are made again only in this mode; PackedModel has set every dropout to 0
    if settings.compile:
        compiled(packed)
    optimizer = open_optimizer(packed, settings)
    prepared = Prepared(packed, packed, optimizer, accelerator, settings)
    if not prepared.sharded:
        prepared.model, prepared.optimizer = accelerator.prepare(packed, optimizer)
        prepared.__dict__.pop("sharded", None)  # accelerate may have sharded it
    return prepared


def precision(settings: Training) -> str:
    """'bf16' where asked for or where the hardware is good at it (a GPU with bf16, AMX); else 'no'."""
    if settings.precision != "auto":
        return "bf16" if settings.precision == "bf16" else "no"
    if device() == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bf16" if amx() else "no"


def use_threads(count: int) -> None:
    """Set torch's threads; 0 keeps its own choice, which follows OMP_NUM_THREADS and the processor's affinity."""
    if count:
        torch.set_num_threads(count)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a graphics card or on the processor."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


@contextmanager
def within_memory(what: str, settings: Training) -> Iterator[None]:
    """Turn an error that says that memory ran out into advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"{what}: memory ran out; lower token_budget (now {settings.token_budget}) or set gradient_checkpointing = "
            "true, and the same command goes on from the last checkpoint; or change what is trained: a lower "
            "max_length, adapters (lora.rank = 16)"
        ) from error


def total_norm(parameters: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients, over all shards."""
    found = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    full = getattr(found, "full_tensor", None)
    return full() if full else found
