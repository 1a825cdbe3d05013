"""A request: what one generation is to be, and how it is put to the cloud.

Law 6: every stream is opened with all of the durable log, the first as any later one. What the request bounds is
absolute (`max_length`), so that opening again extends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.messages import Limits, ModelInfo, Open, Opened
from shared.sampling import SamplingParams
from shared.session.log import TokenLog

MOST_BYTES_PER_TOKEN = 8
"""A token takes at most 5 on the wire: a part of an opening stays well under the message limit."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to generate.

    Raises:
        ValueError: the prompt is empty.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    sampling: SamplingParams
    stop_tokens: tuple[int, ...] = ()
    patience_us: int = 0
    want_logprobs: bool = False
    adaptive_patience_us: int = 0
    """See `Open.adaptive_patience_us`."""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("the prompt is empty: a target continues at least one token")

    def openings(
        self, log: TokenLog, info: ModelInfo, limits: Limits, before: Opened | None = None
    ) -> list[Open]:
        """The parts that open a stream with the log as it is, each within `limits.max_message_bytes`.

        `before`: what the session was opened with last; the server may still have it.
        """
        tokens = tuple(log.tokens)
        size = max(1, limits.max_message_bytes // MOST_BYTES_PER_TOKEN)
        parts = [tokens[i : i + size] for i in range(0, len(tokens), size)]
        return [
            Open(
                tokens=part,
                prompt_length=log.prompt_length,
                max_length=log.max_length,
                sampling=self.sampling,
                stop_tokens=self.stop_tokens,
                model_fingerprint=info.model_fingerprint,
                tokenizer_fingerprint=info.tokenizer_fingerprint,
                patience_us=self.patience_us,
                adaptive_patience_us=self.adaptive_patience_us,
                want_logprobs=self.want_logprobs,
                session_id="" if before is None or index else before.session_id,
                secret="" if before is None or index else before.secret,
                more=index + 1 < len(parts),
            )
            for index, part in enumerate(parts)
        ]
