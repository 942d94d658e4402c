"""What replicas send each other of a sequence, signed with the keys of resume tokens: claims, answers, states."""

import time
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from bundle.manifest import Manifest
from server.errors import InvalidField
from server.service.resume_tokens import Keys
from server.service.token_pb2 import SequenceAnswer, SequenceClaim, SequenceName, SequenceState, SequenceStates
from server.streaming.sequences import HeldSequence, Key

__all__ = ["SequenceTokens", "key_of"]

# Formats, beside that of resume tokens: what is signed as one of them is none of the others.
CLAIM, ANSWER, STATES = b"\x02", b"\x03", b"\x04"
# A claim that somebody has overheard is worth nothing after this time; clocks may differ by it.
CLAIM_SECONDS = 60.0
FIELD = "sequence"
M = TypeVar("M", bound=Message)


class SequenceTokens:
    """Signs for the other replicas, and reads what they signed. Reading raises InvalidField.

    Args:
        server: names this server among the replicas.
    """

    def __init__(self, keys: Keys, server: bytes) -> None:
        self._keys, self._server = keys, server

    def claim(self, digest: str, key: Key) -> bytes:
        """Return what asks for a sequence of the bundle `digest`."""
        sequence = _name(digest, key)
        return self._sign(SequenceClaim(server=self._server, time=time.time(), sequence=sequence), CLAIM)

    def read_claim(self, signed: bytes) -> SequenceName | None:
        """Return the sequence that is asked for; None if this server asks itself."""
        claim = self._read(SequenceClaim, signed, CLAIM)
        if abs(time.time() - claim.time) > CLAIM_SECONDS:
            raise InvalidField(FIELD, f"a claim of {claim.time - time.time():+.0f} s: do the servers' clocks differ?")
        return None if claim.server == self._server else claim.sequence

    def answer(self, digest: str, found: HeldSequence | None, *, is_moving: bool) -> bytes:
        state = _state(digest, found) if found else None
        return self._sign(SequenceAnswer(state=state, is_moving=is_moving), ANSWER)

    def read_answer(self, signed: bytes, manifest: Manifest) -> tuple[HeldSequence | None, bool]:
        """Return the sequence, if it was there, and whether all servers should be asked again."""
        answer = self._read(SequenceAnswer, signed, ANSWER)
        return (_held(answer.state, manifest) if answer.HasField("state") else None), answer.is_moving

    def states(self, digest: str, held: Iterable[HeldSequence]) -> bytes:
        """Return what hands sequences over."""
        return self._sign(SequenceStates(server=self._server, states=[_state(digest, one) for one in held]), STATES)

    def read_states(self, signed: bytes) -> Sequence[SequenceState]:
        """Return the states that are handed over, at least one; none if this server hands them to itself."""
        states = self._read(SequenceStates, signed, STATES)
        return [] if states.server == self._server else states.states

    def held(self, state: SequenceState, manifest: Manifest) -> HeldSequence:
        return _held(state, manifest)

    def _sign(self, message: Message, form: bytes) -> bytes:
        return self._keys.sign(message.SerializeToString(deterministic=True), form)

    def _read(self, kind: type[M], signed: bytes, form: bytes) -> M:
        try:
            return kind.FromString(self._keys.verify(signed, form))
        except DecodeError:
            raise InvalidField(FIELD, "was signed by a version of charstream that this one does not know") from None


def key_of(name: SequenceName) -> Key:
    return Key(name.identity, int(name.name) if name.is_number else name.name)


def _name(digest: str, key: Key) -> SequenceName:
    is_number = isinstance(key.name, int)
    return SequenceName(digest=digest, identity=key.identity, name=str(key.name), is_number=is_number)


def _state(digest: str, held: HeldSequence) -> SequenceState:
    state = b"".join(array.astype("<f4").tobytes() for array in held.state)
    return SequenceState(sequence=_name(digest, held.key), began=held.began, steps=held.steps, state=state)


def _held(state: SequenceState, manifest: Manifest) -> HeldSequence:
    shape = manifest.model
    values = np.frombuffer(state.state, "<f4").astype(np.float32)
    arrays = values.reshape(len(shape.state_names), 1, shape.hidden)
    return HeldSequence(key_of(state.sequence), state.began, state.steps, list(arrays))
