"""Matches of three to six partners: overlaps, and lists by an audience expression."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from client.channel import MatchChannel, StageChannel
from client.results import write_people
from client.tasks.stages import Match, Stage, add_figure
from privacy.errors import ProtocolError
from privacy.matching import algebra, engine, overlap, terms
from privacy.matching.deck import Deck
from privacy.matching.size import SizeNoise
from protos import wire


def ring(match: Match, channels: Mapping[str, MatchChannel]) -> wire.MatchReply:
    """An overlap, or a list by an audience expression."""
    stage, names = Stage(match, 0), match.spec.parties
    me, noise = names.index(match.me), match.spec.size_noise(match.mu2)
    agreed = match.terms(stage.session, noise, overlap.dummy_groups(len(names)))
    deck, size = stage.open_deck(agreed)
    opened: dict[int, StageChannel] = {}
    entered = {me: size}
    offers = [match.engines()]
    for number, name in enumerate(names):
        if number == me:
            continue
        held = _ring_logs(me, number, len(names), keeps_order=noise is None)
        opened[number], entered[number] = stage.open(channels[name], size, agreed, held)
        offers.append(tuple(opened[number].opening.engines))
    common = [n for n in engine.NAMES if all(n in offer for offer in offers)]
    if not common:
        raise ProtocolError("no engine that all have")
    note = match.progress.begin(sum(entered.values()) - size)
    party = overlap.Ring(
        agreed, me, engine.engine(common[0]), stage.secrets, deck, stage.spool, opened,
        [entered[i] for i in range(len(names))], noise is None, note,
    )  # fmt: skip
    party.add_dummies()
    terms.close_deck(deck, size, stage.secrets)
    party.run()
    reply = wire.MatchReply(is_receiver=match.first, engine=common[0])
    people = match.audience.people
    if noise is None:
        if match.first and match.spec.audience is not None:
            found = _in_audience(match, party, deck)
            write_people(match.result_file(), match.audience, found, as_is=match.as_is)
        return reply
    if not match.first:
        party.tell_size(noise, people)
        return reply
    _add_venn(reply, match, noise, party.noisy_counts(noise), party.hear_sizes(noise, people))
    return reply


def _ring_logs(me: int, peer: int, parties: int, *, keeps_order: bool) -> dict[int, str]:
    """The logs of what comes from one peer."""
    held = {}
    if peer == (me - 1) % parties:
        held = {overlap.RING + j: f"ring {j}" for j in range(parties) if j != me}
    if me == 0:
        owner = (peer + 1) % parties
        if owner == 0 and keeps_order:
            held[overlap.ORDERED] = "set 0"
        elif owner != 1:
            held[overlap.FINAL + owner] = f"set {owner}"
    return held


def _in_audience(match: Match, party: overlap.Ring, deck: Deck) -> NDArray[np.bool_]:
    audience = algebra.parse(match.spec.audience or "")
    found = []
    for places, others in party.members():
        members = {match.spec.parties[i]: hits for i, hits in others.items()}
        members[match.me] = np.ones(len(places), np.bool_)
        found.append(places[audience.select(members)])
    return match.people_at(deck, np.sort(np.concatenate(found)))


def _add_venn(
    reply: wire.MatchReply,
    match: Match,
    noise: SizeNoise,
    counts: Mapping[overlap.Cell, int],
    own_sizes: list[int],
) -> None:
    """Cells of exactly those parties, set sizes, and the audience from both."""
    names = match.spec.parties
    for cell, value in counts.items():
        name = " & ".join(names[i] for i in cell)
        add_figure(reply, name, value, noise.deviation * 2.0**0.5)
    for i, value in enumerate(own_sizes):
        add_figure(reply, f"size {names[i]}", value, noise.deviation)
    if match.spec.audience is None:
        return
    audience = algebra.parse(match.spec.audience)

    def inside(cell: overlap.Cell) -> int:
        members = {n: np.array([i in cell]) for i, n in enumerate(names)}
        return int(audience.select(members)[0])

    alone = [inside((i,)) for i in range(len(names))]
    estimate, variance = 0.0, 0.0
    for i, size in enumerate(own_sizes):
        estimate += alone[i] * size
        variance += alone[i] ** 2
    for cell, size in counts.items():
        weight = inside(cell) - sum(alone[i] for i in cell)
        estimate += weight * size
        variance += 2 * weight**2
    deviation = noise.deviation * variance**0.5
    add_figure(reply, "audience", estimate, deviation)
