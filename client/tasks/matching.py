"""Matches between two partners over their connection: lists, sizes, sums, pseudonyms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.channel import MatchChannel
from client.results import write_people, write_pseudonyms, write_union
from client.tasks.stages import HELD, Match, Stage, add_figure
from privacy.errors import ProtocolError
from privacy.matching import fast, intersection, sizes, terms, total
from privacy.matching.intersection import Positions
from privacy.matching.size import SizeNoise
from protos import wire


def pair(match: Match, channel: MatchChannel) -> wire.MatchReply:
    """Any match between two parties but caches."""
    if match.spec.result == "size":
        return _size(match, channel)
    if match.spec.result == "sum":
        return _sum(match, channel)
    if match.spec.result == "ids":
        return _ids(match, channel)
    return _lists(match, channel)


def _lists(match: Match, channel: MatchChannel) -> wire.MatchReply:
    """A list for one or both, through all kinds of identifiers, every stage of one size."""
    matched = np.zeros(match.audience.people, np.bool_)
    both, used = match.spec.result == "lists", ""
    for number in range(len(match.spec.identifiers)):
        stage = Stage(match, number)
        without = matched if number and (both or match.first) else None
        if match.fast_lane:
            people, used = _fast(stage, channel, without)
            matched[people] = True
            continue
        agreed = match.terms(stage.session)
        deck = stage.deck(agreed, without, padded=match.largest(agreed))
        opened, theirs = stage.open(
            channel, deck.distinct, agreed, HELD[match.spec.result, match.first]
        )
        expected = deck.distinct if match.first else deck.distinct + theirs
        side = stage.side(deck, opened, theirs, theirs if both else expected)
        used = side.engine.name
        if both:
            positions, _, _ = intersection.exchange(side)
        elif match.first:
            positions = intersection.receive(side)
        else:
            intersection.send(side)
            continue
        matched |= match.people_at(deck, positions)
    if both or match.first:
        write_people(match.result_file(), match.audience, matched, as_is=match.as_is)
    return wire.MatchReply(is_receiver=match.first, engine=used)


def _fast(
    stage: Stage, channel: MatchChannel, without: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], str]:
    match, agreed = stage.match, stage.match.terms(stage.session)
    size = match.largest(agreed)
    parts = list(match.audience.records(stage.kind, without))
    labels = np.concatenate([part[0] for part in parts] or [np.empty((0, 32), np.uint8)])
    people = np.concatenate([part[1] for part in parts] or [np.empty(0, np.int64)])
    own = fast.Set.of(
        labels, people, stage.secrets.bytes_for("order")[:16], lambda _: size,
        stage.secrets.source("padding"),
    )  # fmt: skip
    opened, theirs = stage.open(channel, len(own.labels), agreed, {})
    if "fast" not in opened.opening.engines:
        raise ProtocolError("the peer does not offer the fast lane")
    note = match.progress.begin(fast.bins_for(len(own.labels) if match.first else theirs))
    source = stage.secrets.source("fast")
    if not match.first:
        fast.send(opened, own, theirs, source, note)
        return np.empty(0, np.int64), "fast"
    return own.rows_of(fast.receive(opened, own, theirs, source, note)), "fast"


def _noisy_side(match: Match, channel: MatchChannel, noise: SizeNoise) -> tuple[Stage, terms.Side]:
    stage = Stage(match, 0)
    agreed = match.terms(stage.session, noise)
    if match.first:
        dummies = terms.dummy_labels(stage.session, noise.dummies)
    else:
        dummies = terms.chosen_dummies(agreed, stage.secrets.source("dummies"))
    deck = stage.deck(agreed, None, dummies)
    opened, theirs = stage.open(channel, deck.distinct, agreed, HELD["size", match.first])
    return stage, stage.side(deck, opened, theirs, theirs)


def _size(match: Match, channel: MatchChannel) -> wire.MatchReply:
    noise = match.spec.size_noise(match.mu2)
    if noise is None:
        raise ProtocolError("a size without noise")
    stage, side = _noisy_side(match, channel, noise)
    reply = wire.MatchReply(is_receiver=match.first, engine=side.engine.name)
    if match.first:
        _add_size(reply, stage, noise, sizes.receive(side))
    else:
        sizes.send(side)
    return reply


def _add_size(reply: wire.MatchReply, stage: Stage, noise: SizeNoise, places: Positions) -> None:
    """z shifted back, and the receiver's own noise."""
    value = len(places) - noise.bound + noise.draw(stage.secrets.source("size noise"))
    add_figure(reply, "size", value, noise.deviation * 2.0**0.5)


def _sum(match: Match, channel: MatchChannel) -> wire.MatchReply:
    noise = match.spec.size_noise(match.mu2)
    sum_noise = match.spec.sum_noise(match.contract, match.mu2)
    if noise is None or sum_noise is None:
        raise ProtocolError("a sum without noise")
    stage, side = _noisy_side(match, channel, noise)
    reply = wire.MatchReply(is_receiver=match.first, engine=side.engine.name)
    if not match.first:
        low, high = match.spec.value_bounds(match.contract)
        total.send(side, sum_noise, np.clip(match.audience.values(), low, high))
        return reply
    places, value = total.receive(side, sum_noise)
    _add_size(reply, stage, noise, places)
    add_figure(reply, "sum", value, sum_noise.deviation * 2.0**0.5)
    return reply


def _ids(match: Match, channel: MatchChannel) -> wire.MatchReply:
    """Pseudonyms of this side's people, and the union's: two files."""
    stage = Stage(match, 0)
    agreed = match.terms(stage.session)
    deck = stage.deck(agreed, None)
    opened, theirs = stage.open(channel, deck.distinct, agreed, HELD["lists", match.first])
    side = stage.side(deck, opened, theirs, theirs)
    _, mine, others = intersection.exchange(side)
    write_pseudonyms(match.result_file(), match.audience, deck, mine, as_is=match.as_is)
    write_union(match.result_file("-union"), stage.spool, mine, others, max(deck.distinct, theirs))
    return wire.MatchReply(is_receiver=match.first, engine=side.engine.name)
