"""How many people two audiences share, with noise (De Cristofaro, Gasti, Tsudik 2012, Figure 1).

    1. R -> S   a H(x)             R's items, padding and all public dummies, in R's secret order
    2. S -> R   b H(y)             S's items, padding and z of the dummies, in S's secret order
    3. S -> R   tokens of b (a H(x)), sorted: R cannot tell which of its items they are
    4. R counts the tokens of a (b H(y)) that are among them: size + z

R learns size + z and S's padded size, S learns R's padded size; both are drawn and charged
(:mod:`privacy.matching.size`). Which places of message 2 matched, R
knows too; they are S's secret order, so they say nothing to R alone, and they are what
:mod:`privacy.matching.total` goes on with. Semi-honest: a receiver that used another exponent for each
item could identify every match; caps and frequency bound that (Miao, Patel, Raykova, Seth, Yung, CRYPTO
2020, is the way to more).
"""

from __future__ import annotations

from privacy.matching import intersection, tokens
from privacy.matching.channel import Expected, alongside, chunks_of, gather, rows
from privacy.matching.engine import POINT_BYTES
from privacy.matching.intersection import BLINDED, OWN, TOKENS, Positions
from privacy.matching.terms import Side


def receive(side: Side) -> Positions:
    """R's part: the places in S's order whose elements R has too, ascending, dummies among them."""
    key, items = side.key(), side.deck.distinct
    theirs, answers = side.spool.log("theirs"), side.spool.log("tokens")

    def send() -> None:
        intersection.send_blinded(side, key, BLINDED, side.channel.peer_has(BLINDED))

    def take_points(index: int, data: bytes) -> None:
        points = rows(data, POINT_BYTES, index, side.theirs)
        theirs.append(side.engine.tokens(side.engine.multiply(key, points)).tobytes())
        side.progress(len(points))

    def take_tokens(index: int, data: bytes) -> None:
        tokens.decode(data, index, bits, items)
        answers.append(data)
        side.progress(0)

    bits = tokens.frame_bits(items)
    with alongside(side.channel, send):
        gather(
            side.channel,
            {
                OWN: Expected(len(theirs), chunks_of(side.theirs), take_points),
                TOKENS: Expected(len(answers), 1 << bits, take_tokens),
            },
        )
    return intersection.join(side, theirs, side.theirs, answers, items)


def send(side: Side) -> None:
    """S's part."""
    key, twice = side.key(), side.spool.log("twice")

    def send_own() -> None:
        intersection.send_blinded(side, key, OWN, side.channel.peer_has(OWN))

    def take(index: int, data: bytes) -> None:
        points = rows(data, POINT_BYTES, index, side.theirs)
        twice.append(side.engine.tokens(side.engine.multiply(key, points)).tobytes())
        side.progress(len(points))

    with alongside(side.channel, send_own):
        gather(side.channel, {BLINDED: Expected(len(twice), chunks_of(side.theirs), take)})
    intersection.send_sorted(side, twice, side.theirs)
