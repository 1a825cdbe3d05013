"""A loaded model as the verifier uses it: ragged rows in, logits of chosen rows out.

Adopting a model asks it what its keys and values look like, moves its attention to `ragged_attention`, and then
compares it with its stock self on a small tree. So a model that the configuration check of `cloud_server.model` does
not know about is refused at load, not discovered in the text.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass, field
from typing import Any, Final, cast

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from cloud_server.attention import ragged_attention
from cloud_server.kv_cache import SessionCache
from cloud_server.kv_pool import PAGE_SLOTS, KvPool, KvShape
from cloud_server.lean import LeanDecoder, drop_layers, is_lean
from cloud_server.model import LoadedModel
from cloud_server.packed_linear import pack_linear_layers
from cloud_server.ragged import Forward, ForwardBuilder
from shared.errors import UserError
from shared.sampling import SamplingParams
from shared.step import StepItem, StepNode

log = logging.getLogger(__name__)

RAGGED: Final = "slipstream_ragged"
SURVEY: Final = "slipstream_survey"
CHECK_TOKENS: Final = 24
CHANGES_SCORES: Final = ("softcap", "s_aux", "position_bias", "sliding_window")
"""Arguments of an attention function that the ragged one does not honour."""
TOLERANCE: Final = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Greatest difference to the stock model's logits, relative to the greatest of them."""


class Target:
    """The model behind one verifier. Takes the loaded module over: its attention and linear layers are replaced,
    or its layers are dropped where a lean decoder holds them.
    """

    def __init__(self, loaded: LoadedModel, *, portable: bool = False) -> None:
        """`portable`: without what is made for a CPU, as on an accelerator.

        Raises:
            UserError: the model cannot be served exactly.
        """
        self._module = loaded.module
        name = type(loaded.module).__name__
        if "logits_to_keep" not in inspect.signature(loaded.module.forward).parameters:
            raise UserError(f"cannot serve {name}: it does not compute the logits of chosen rows only")
        if not loaded.module.is_backend_compatible() or loaded.module._is_stateful:  # noqa: SLF001
            raise UserError(f"cannot serve {name}: its layers do not use transformers' attention interface")
        self._loaded = loaded
        self._lean: LeanDecoder | None = None
        self.kind = "transformers"
        """What computes the forwards, for the log."""
        with torch.inference_mode():
            tokens = _check_tokens(loaded)
            reference = self._stock_logits(tokens)
            survey = self._survey(tokens)
            self.shape = survey.shape(loaded)
            self.group = survey.group
            self.vocabulary_size = reference.shape[-1]
            self._set_attention(RAGGED)
            self._check(tokens, reference, "ragged attention")
            if loaded.device.type == "cpu" and loaded.dtype == torch.float32 and not portable:
                self._speed_up(tokens, reference)

    def logits(self, forward: Forward) -> Tensor:
        """[R, V]: after each row in `forward.logit_rows`. Writes the rows' keys and values into the pool."""
        if self._lean is not None:
            return self._lean.logits(
                forward.tokens[0], forward.positions[0], forward.logit_rows, forward.batch
            )
        out = self._module(
            input_ids=forward.tokens,
            position_ids=forward.positions,
            use_cache=False,
            logits_to_keep=forward.logit_rows,
            ragged=forward.batch,
        )
        logits: Tensor = out.logits[0]
        return logits

    def _stock_logits(self, tokens: list[int]) -> Tensor:
        ids = torch.tensor([tokens], device=self._loaded.device)
        logits: Tensor = self._module(input_ids=ids, use_cache=False).logits[0].float()
        return logits

    def _survey(self, tokens: list[int]) -> _Survey:
        survey = _Survey()
        self._set_attention(SURVEY)
        ids = torch.tensor([tokens], device=self._loaded.device)
        self._module(input_ids=ids, use_cache=False, survey=survey)
        return survey

    def _set_attention(self, name: str) -> None:
        self._module.set_attn_implementation(name)
        if self._module.config._attn_implementation != name:  # noqa: SLF001
            raise UserError(f"cannot serve {type(self._module).__name__}: its attention cannot be replaced")

    def _speed_up(self, tokens: list[int], reference: Tensor) -> None:
        """Float32 on a CPU: a lean decoder where there is one, else transformers' own with packed linear layers."""
        if is_lean(self._module):
            self._lean = LeanDecoder(self._module)
            self.kind = "lean decoder"
        else:
            count = pack_linear_layers(self._module)
            self.kind = f"transformers with {count} packed linear layers"
        self._check(tokens, reference, self.kind)
        if self._lean is not None:
            drop_layers(self._module)

    def _check(self, tokens: list[int], reference: Tensor, what: str) -> None:
        """Compare with the stock model: a trunk, then the rest as a chain of draft tokens with a wrong sibling each.

        Raises:
            UserError: they differ.
        """
        pool = KvPool(
            self.shape,
            limit_bytes=self.shape.token_bytes * 2 * PAGE_SLOTS,
            reserve_slots=PAGE_SLOTS,
        )
        build = ForwardBuilder(pool, group=self.group, context_length=self._loaded.context_length).build
        cache, trunk = SessionCache(), len(tokens) // 2
        chain = [
            node
            for depth, token in enumerate(tokens[trunk:])
            for node in (
                StepNode(-1, (token + 1) % self._loaded.vocabulary_size, 2 * depth - 1, wanted=True),
                StepNode(trunk + depth, token, 2 * depth - 1, wanted=True),
            )
        ]
        worst = 0.0
        for nodes in ((), tuple(chain)):
            item = StepItem(0, tokens, trunk, nodes, trunk - 1, SamplingParams(), trunk)
            forward = build([cache.place(item, pool)])
            logits = self.logits(forward).float()
            for row, wanted in enumerate(forward.wanted):
                if wanted.keys[0] >= 0:
                    worst = max(worst, float((logits[row] - reference[wanted.keys[0]]).abs().max()))
        if not worst <= TOLERANCE[self._loaded.dtype] * float(reference.abs().max()):
            raise UserError(
                f"cannot serve {type(self._module).__name__} exactly: with {what} its logits differ by {worst:.3g}"
            )


@dataclass(slots=True)
class _Survey:
    """What the attention function was given, call by call: (layer, key/value heads, group, key and value size)."""

    calls: list[tuple[int, int, int, int, int]] = field(default_factory=list)

    def shape(self, loaded: LoadedModel) -> KvShape:
        layers = [call[0] for call in self.calls]
        kinds = {call[1:] for call in self.calls}
        if layers != list(range(loaded.module.config.get_text_config().num_hidden_layers)) or len(kinds) != 1:
            raise UserError(
                f"cannot serve {type(loaded.module).__name__}: its layers do not all attend alike"
            )
        _, heads, _, key_dim, value_dim = self.calls[0]
        return KvShape(len(layers), heads, key_dim, value_dim, loaded.dtype, loaded.device)

    @property
    def group(self) -> int:
        return self.calls[0][2]


def _survey_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    survey: _Survey,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Takes notes; the attention itself is the stock one."""
    if found := [name for name in CHANGES_SCORES if arguments.get(name) is not None]:
        raise UserError(f"cannot serve this model exactly: its attention has {', '.join(found)}")
    layer = cast("int", module.layer_idx)
    survey.calls.append((layer, key.shape[1], query.shape[1] // key.shape[1], key.shape[3], value.shape[3]))
    out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)
    return out, None


def _check_tokens(loaded: LoadedModel) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    count = min(CHECK_TOKENS, loaded.context_length)
    drawn: list[int] = torch.randint(loaded.vocabulary_size, (count,), generator=generator).tolist()
    return drawn


AttentionInterface.register(RAGGED, ragged_attention)
AttentionInterface.register(SURVEY, _survey_attention)
