"""Arithmetic modulo p = 2^255 - 19 on eight values at once, as LLVM instructions.

A value is five limbs of 51 bits, each limb a vector of eight 64-bit lanes (AVX-512-IFMA; after
Gueron and Krasnov 2016, and Cheng, Fotiadis, Grossschaedl, Ryan 2022). The multiplier reads 52 bits
of each operand, so two kinds of values are kept apart:

    loose   every limb < 2^62: what a product, a sum or a difference yields
    tight   every limb < 2^51 + 2^17: what :meth:`Field.carry` yields and a product accepts

Carrying only what enters a product, instead of every sum and every product, saves a third of the
carries of a ladder step. No instruction here depends on a value: no branch, no indexed load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
LANES = 8
VECTOR = ir.VectorType(I64, LANES)
LIMBS = 5
LIMB_BITS = 51
LOW = (1 << LIMB_BITS) - 1
P = 2**255 - 19

Limbs = list[Any]
"""Five SSA values of type VECTOR."""


def splat(value: int) -> ir.Constant:
    """A constant in all lanes."""
    return ir.Constant(VECTOR, [value & (1 << 64) - 1] * LANES)


def limbs_of(value: int) -> Limbs:
    """A constant below 2^255 as limbs."""
    return [splat(value >> LIMB_BITS * i & LOW) for i in range(LIMBS)]


BIAS_LOOSE = [(2**51 - 19) << 9] + [(2**51 - 1) << 9] * 4
"""2^9 p, limb by limb above any product: keeps a difference of loose values positive."""
BIAS_TIGHT = [(2**51 - 19) << 2] + [(2**51 - 1) << 2] * 4
"""4p, limb by limb above any tight value."""


class Field:
    """Emits field operations at the position of ``builder``."""

    def __init__(self, module: ir.Module, builder: ir.IRBuilder) -> None:
        self.b = builder
        kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
        self._low = _intrinsic(module, kind, "llvm.x86.avx512.vpmadd52l.uq.512")
        self._high = _intrinsic(module, kind, "llvm.x86.avx512.vpmadd52h.uq.512")

    def low(self, total: Any, x: Any, y: Any) -> Any:
        """total + (x * y mod 2^52), x and y cut to 52 bits."""
        return self.b.call(self._low, [total, x, y])

    def high(self, total: Any, x: Any, y: Any) -> Any:
        """total + floor(x * y / 2^52), x and y cut to 52 bits."""
        return self.b.call(self._high, [total, x, y])

    def carry(self, x: Limbs) -> Limbs:
        """Loose (even < 2^63) to tight: every limb hands its excess to the next at once."""
        b = self.b
        over = [b.lshr(limb, splat(LIMB_BITS)) for limb in x]
        kept = [b.and_(limb, splat(LOW)) for limb in x]
        first = self.low(kept[0], over[4], splat(19))
        return [first] + [b.add(kept[i], over[i - 1]) for i in range(1, LIMBS)]

    def add(self, x: Limbs, y: Limbs) -> Limbs:
        """x + y, loose."""
        return [self.b.add(p, q) for p, q in zip(x, y, strict=True)]

    def sub(self, x: Limbs, y: Limbs, bias: Sequence[int] = BIAS_LOOSE) -> Limbs:
        """x - y + a multiple of p, loose."""
        b = self.b
        return [b.sub(b.add(x[i], splat(bias[i])), y[i]) for i in range(LIMBS)]

    def mul(self, x: Limbs, y: Limbs) -> Limbs:
        """x * y of tight values, loose (limbs < 2^60).

        The upper part of a limb's product has weight 2^52 and so counts double in the next limb;
        what reaches limb k + 5 comes back to limb k nineteenfold: 2 (9 w + upper) + w + lower.
        """
        b = self.b

        def position(k: int, wrapped: Any) -> Any:
            total = splat(0)
            if wrapped is not None:
                total = b.add(wrapped, b.shl(wrapped, splat(3)))
            for i, j in _pairs(k - 1):
                total = self.high(total, x[i], y[j])
            total = b.add(total, total)
            if wrapped is not None:
                total = b.add(total, wrapped)
            for i, j in _pairs(k):
                total = self.low(total, x[i], y[j])
            return total

        return self._positions(position)

    def square(self, x: Limbs) -> Limbs:
        """x * x of a tight value, loose: cross products once, doubled with what they join."""
        b = self.b

        def position(k: int, wrapped: Any) -> Any:
            total = splat(0) if wrapped is None else b.shl(wrapped, splat(2))
            for i, j in _cross(k - 1):
                total = self.high(total, x[i], x[j])
            total = b.add(total, total)
            if wrapped is not None:
                total = b.add(total, wrapped)
            if k % 2 == 1:
                total = self.high(total, x[k // 2], x[k // 2])
            for i, j in _cross(k):
                total = self.low(total, x[i], x[j])
            total = b.add(total, total)
            if wrapped is not None:
                total = b.add(total, wrapped)
            if k % 2 == 0:
                total = self.low(total, x[k // 2], x[k // 2])
            return total

        return self._positions(position)

    def _positions(self, position: Any) -> Limbs:
        upper = [position(k, None) for k in range(LIMBS, 2 * LIMBS)]
        return [position(k, upper[k]) for k in range(LIMBS)]

    def times19(self, x: Any) -> Any:
        """19 x, without a multiplication."""
        b = self.b
        nine = b.add(x, b.shl(x, splat(3)))
        return b.add(b.add(nine, nine), x)

    def add_small_product(self, total: Limbs, x: Limbs, factor: int) -> Limbs:
        """total + factor * x for a tight x and a factor below 2^30, loose."""
        b = self.b
        tops = [self.high(splat(0), limb, splat(factor)) for limb in x]
        tops = [b.add(top, top) for top in tops]
        result = [self.low(b.add(total[0], self.times19(tops[4])), x[0], splat(factor))]
        for i in range(1, LIMBS):
            result.append(self.low(b.add(total[i], tops[i - 1]), x[i], splat(factor)))
        return result

    def choose(self, mask: Any, x: Limbs, y: Limbs) -> Limbs:
        """Lanes of y where ``mask`` is all ones, of x where it is zero."""
        b = self.b
        inverse = b.xor(mask, splat(-1))
        return [b.or_(b.and_(mask, q), b.and_(inverse, p)) for p, q in zip(x, y, strict=True)]

    def reduce(self, x: Limbs) -> Limbs:
        """The one representative below p, limbs below 2^51."""
        x = self._settle(self._settle(x))
        b = self.b
        quotient = b.lshr(b.add(x[0], splat(19)), splat(LIMB_BITS))
        for i in range(1, LIMBS):
            quotient = b.lshr(b.add(x[i], quotient), splat(LIMB_BITS))
        x = list(x)
        x[0] = b.add(x[0], self.times19(quotient))
        for i in range(LIMBS - 1):
            over = b.lshr(x[i], splat(LIMB_BITS))
            x[i] = b.and_(x[i], splat(LOW))
            x[i + 1] = b.add(x[i + 1], over)
        x[4] = b.and_(x[4], splat(LOW))
        return x

    def _settle(self, x: Limbs) -> Limbs:
        b, x = self.b, list(x)
        for i in range(LIMBS - 1):
            over = b.lshr(x[i], splat(LIMB_BITS))
            x[i] = b.and_(x[i], splat(LOW))
            x[i + 1] = b.add(x[i + 1], over)
        over = b.lshr(x[4], splat(LIMB_BITS))
        x[4] = b.and_(x[4], splat(LOW))
        x[0] = b.add(x[0], self.times19(over))
        return x

    # ------------------------------------------------------------------ words

    def from_words(self, words: Sequence[Any]) -> Limbs:
        """Four little-endian 64-bit words as limbs; bit 255 is dropped (RFC 7748, 5)."""
        return [self._bits(words, LIMB_BITS * i) for i in range(LIMBS)]

    def from_wide(self, words: Sequence[Any]) -> Limbs:
        """Six words, 384 bits, modulo p; tight."""
        low = [self._bits(words, LIMB_BITS * i) for i in range(LIMBS)]
        high = [self._bits(words, LIMB_BITS * i) for i in range(LIMBS, 8)]
        for i, limb in enumerate(high):
            low[i] = self.b.add(low[i], self.times19(limb))
        return self.carry(low)

    def _bits(self, words: Sequence[Any], start: int) -> Any:
        b, (word, shift) = self.b, divmod(start, 64)
        value = b.lshr(words[word], splat(shift)) if shift else words[word]
        if shift + LIMB_BITS > 64 and word + 1 < len(words):
            value = b.or_(value, b.shl(words[word + 1], splat(64 - shift)))
        return b.and_(value, splat(LOW))

    def to_words(self, x: Limbs) -> list[Any]:
        """Inverse of :meth:`from_words` for a reduced value."""
        b = self.b
        return [
            b.or_(b.lshr(x[i], splat(13 * i)) if i else x[0], b.shl(x[i + 1], splat(51 - 13 * i)))
            for i in range(4)
        ]


def _pairs(k: int) -> list[tuple[int, int]]:
    return [(i, k - i) for i in range(LIMBS) if 0 <= k - i < LIMBS]


def _cross(k: int) -> list[tuple[int, int]]:
    return [(i, j) for i, j in _pairs(k) if i < j]


def _intrinsic(module: ir.Module, kind: ir.FunctionType, name: str) -> ir.Function:
    known = module.globals.get(name)
    return known if known is not None else ir.Function(module, kind, name)
