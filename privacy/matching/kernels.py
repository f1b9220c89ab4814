"""Batch kernels on eight lanes, compiled at run time by LLVM; needs AVX-512-IFMA.

    sha512   FIPS 180-4, 6.4: one block from a given state
    encode   Elligator 2 to x coordinates of curve25519 (RFC 9380, 6.7.1 with J = 486662, Z = 2)
    check    whether x is on the curve and not on its twist (Euler's criterion)
    ladder   x coordinate of k * P for one k (RFC 7748, 5), all 255 bits, mask swap

Arrays are words x lanes: word j of item i at ``[j][i]``, items a multiple of eight. Nothing branches
on or indexes by a scalar, a point or an item; :func:`listing` gives the machine code to look at.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from privacy.matching.field import (
    BIAS_TIGHT,
    I8,
    I32,
    I64,
    LANES,
    LIMBS,
    VECTOR,
    Field,
    Limbs,
    limbs_of,
    splat,
)

J = 486662
SCALAR_BITS = 255
FEATURES = ("avx512f", "avx512bw", "avx512ifma")
_POINTER = VECTOR.as_pointer()
_BYTES = I8.as_pointer()
_VOID = ir.VoidType()


@dataclass(frozen=True)
class Kernels:
    """Compiled kernels. Every argument is an address, aligned to 64 bytes, or a count of vectors.

    sha512(out[8][n], words[k][n], state[8], block[16], k, n/8): the first k words of the block come
    from ``words``, the others, as the state, are the same for all items
    encode(out[4][n], words[6][n], n/8, scratch)
    check(flags[n], points[4][n], n/8): a flag is 0 for a point on the curve
    ladder(out[4][n], flags[n], points[4][n], bits[255], n/8, scratch): a flag is 0 where Z = 0
    """

    sha512: Callable[..., None]
    encode: Callable[..., None]
    check: Callable[..., None]
    ladder: Callable[..., None]
    engine: Any


def supported() -> bool:
    """Whether this processor has what the kernels need."""
    found = llvm.get_host_cpu_features()
    return all(found.get(name, False) for name in FEATURES)


def scratch_vectors(vectors: int) -> int:
    """Vectors of scratch that ``encode`` and ``ladder`` need for a batch."""
    return LIMBS * (3 * vectors + 1)


def compiled() -> Kernels:
    """Compile for this processor: about a second."""
    module, machine = _lowered()
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    pointer, count = ctypes.c_void_p, ctypes.c_int64

    def take(name: str, *kinds: Any) -> Callable[..., None]:
        function: Callable[..., None] = ctypes.CFUNCTYPE(None, *kinds)(
            engine.get_function_address(name)
        )
        return function

    return Kernels(
        take("sha512", pointer, pointer, pointer, pointer, count, count),
        take("encode", pointer, pointer, count, pointer),
        take("check", pointer, pointer, count),
        take("ladder", pointer, pointer, pointer, pointer, count, pointer),
        engine,
    )


def listing() -> str:
    """The assembly of all kernels."""
    module, machine = _lowered()
    text: str = machine.emit_assembly(module)
    return text


def _lowered() -> tuple[Any, Any]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(str(_module()))
    module.verify()
    target = llvm.Target.from_triple(llvm.get_default_triple())
    features = llvm.get_host_cpu_features().flatten() + ",-prefer-256-bit"
    machine = target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3)
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return module, machine


def _module() -> ir.Module:
    module = ir.Module("tallystick")
    module.triple = llvm.get_default_triple()
    mul = _product(module)
    power = _squarings(module)
    invert = _power_function(module, "invert", mul, power, tail=5, last="z11")
    euler = _power_function(module, "euler", mul, power, tail=4, last="z6")
    affine = _affine(module, mul, invert)
    _sha512(module)
    _encode(module, euler, affine)
    _check(module, euler)
    _ladder(module, _ladder_step(module), affine)
    return module


# ---------------------------------------------------------------------- small functions


def _at(b: ir.IRBuilder, base: Any, index: Any) -> Any:
    return b.gep(base, [index if hasattr(index, "type") else I64(index)])


def _load(b: ir.IRBuilder, base: Any, offset: Any = 0) -> Limbs:
    start = _at(b, base, offset)
    return [b.load(_at(b, start, i), align=64) for i in range(LIMBS)]


def _store(b: ir.IRBuilder, x: Limbs, base: Any, offset: Any = 0) -> None:
    start = _at(b, base, offset)
    for i, limb in enumerate(x):
        b.store(limb, _at(b, start, i), align=64)


def _room(b: ir.IRBuilder, vectors: int = LIMBS) -> Any:
    slot = b.alloca(ir.ArrayType(VECTOR, vectors))
    slot.align = 64
    return b.bitcast(slot, _POINTER)


def _loop(function: ir.Function, b: ir.IRBuilder, count: Any, body: Any, down: bool = False) -> Any:
    """body(builder, index) for 0 <= index < count; the builder after the loop."""
    before, inside, after = b.block, function.append_basic_block(), function.append_basic_block()
    b.branch(inside)
    inner = ir.IRBuilder(inside)
    step = inner.phi(I64)
    index = inner.sub(inner.sub(count, I64(1)), step) if down else step
    body(inner, index)
    following = inner.add(step, I64(1))
    step.add_incoming(I64(0), before)
    step.add_incoming(following, inner.block)
    inner.cbranch(inner.icmp_unsigned("<", following, count), inside, after)
    return ir.IRBuilder(after)


def _internal(module: ir.Module, name: str, kinds: list[Any]) -> tuple[ir.Function, ir.IRBuilder]:
    function = ir.Function(module, ir.FunctionType(_VOID, kinds), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    return function, ir.IRBuilder(function.append_basic_block())


def _product(module: ir.Module) -> ir.Function:
    """product(out, x, y): tight."""
    function, b = _internal(module, "product", [_POINTER] * 3)
    field = Field(module, b)
    _store(b, field.carry(field.mul(_load(b, function.args[1]), _load(b, function.args[2]))),
           function.args[0])  # fmt: skip
    b.ret_void()
    return function


def _squarings(module: ir.Module) -> ir.Function:
    """squarings(out, x, n): x^(2^n), tight; n > 0."""
    function, b = _internal(module, "squarings", [_POINTER, _POINTER, I64])
    before = b.block
    inside, after = function.append_basic_block(), function.append_basic_block()
    first = _load(b, function.args[1])
    b.branch(inside)
    b = ir.IRBuilder(inside)
    x, done = [b.phi(VECTOR) for _ in range(LIMBS)], b.phi(I64)
    field = Field(module, b)
    squared, count = field.carry(field.square(x)), b.add(done, I64(1))
    for phi, start, following in zip([*x, done], [*first, I64(0)], [*squared, count], strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(following, inside)
    b.cbranch(b.icmp_unsigned("<", count, function.args[2]), inside, after)
    b = ir.IRBuilder(after)
    _store(b, squared, function.args[0])
    b.ret_void()
    return function


def _power_function(
    module: ir.Module, name: str, mul: ir.Function, power: ir.Function, *, tail: int, last: str
) -> ir.Function:
    """x^(p-2) (tail 5, z11) or x^((p-1)/2) (tail 4, z6): Bernstein's chain of 2006."""
    function, b = _internal(module, name, [_POINTER] * 2)
    z = function.args[1]
    names = ("z2", "z6", "z9", "z11", "t", "u", "w")
    r = {key: _room(b) for key in names}

    def square(out: str, x: Any, times: int) -> None:
        b.call(power, [r[out], r[x] if isinstance(x, str) else x, I64(times)])

    def multiply(out: str, x: str, y: Any) -> None:
        b.call(mul, [r[out], r[x], r[y] if isinstance(y, str) else y])

    square("z2", z, 1)
    square("t", "z2", 1)
    multiply("z6", "t", "z2")
    square("t", "z2", 2)
    multiply("z9", "t", z)
    multiply("z11", "z9", "z2")
    square("t", "z11", 1)
    multiply("u", "t", "z9")  # 2^5 - 1
    for times, out, other in (
        (5, "u", "u"),  # 2^10 - 1
        (10, "w", "u"),  # 2^20 - 1
    ):
        square("t", "u", times)
        multiply(out, "t", other)
    square("t", "w", 20)
    multiply("t", "t", "w")  # 2^40 - 1
    square("t", "t", 10)
    multiply("u", "t", "u")  # 2^50 - 1
    square("t", "u", 50)
    multiply("w", "t", "u")  # 2^100 - 1
    square("t", "w", 100)
    multiply("t", "t", "w")  # 2^200 - 1
    square("t", "t", 50)
    multiply("t", "t", "u")  # 2^250 - 1
    square("t", "t", tail)
    b.call(mul, [function.args[0], r["t"], r[last]])
    b.ret_void()
    return function


def _nonzero(field: Field, x: Limbs) -> Any:
    """All ones in the lanes where a value is not 0 modulo p."""
    b = field.b
    bits = field.reduce(x)
    total = b.or_(b.or_(b.or_(bits[0], bits[1]), b.or_(bits[2], bits[3])), bits[4])
    # total < 2^51, so the top bit of -total is 1 exactly for total > 0
    return b.ashr(b.sub(splat(0), total), splat(63))


def _affine(module: ir.Module, mul: ir.Function, invert: ir.Function) -> ir.Function:
    """affine(out[4][n], X and Z in scratch, n/8): X/Z with one inversion (Montgomery's trick).

    Scratch: X of all vectors, Z of all vectors, then n/8 + 1 running products. No Z may be 0.
    """
    function, b = _internal(module, "affine", [_POINTER, _POINTER, I64])
    out, scratch, vectors = function.args
    zs = b.mul(vectors, I64(LIMBS))
    products = b.mul(vectors, I64(2 * LIMBS))
    inverse, item, x = _room(b), _room(b), _room(b)
    _store(b, limbs_of(1), scratch, products)

    def forward(c: ir.IRBuilder, k: Any) -> None:
        at = c.mul(k, I64(LIMBS))
        here = c.add(products, at)
        following = _at(c, scratch, c.add(here, I64(LIMBS)))
        c.call(mul, [following, _at(c, scratch, here), _at(c, scratch, c.add(zs, at))])

    b = _loop(function, b, vectors, forward)
    b.call(invert, [inverse, _at(b, scratch, b.add(products, b.mul(vectors, I64(LIMBS))))])

    def backward(c: ir.IRBuilder, k: Any) -> None:
        at = c.mul(k, I64(LIMBS))
        c.call(mul, [item, inverse, _at(c, scratch, c.add(products, at))])
        c.call(mul, [inverse, inverse, _at(c, scratch, c.add(zs, at))])
        c.call(mul, [x, _at(c, scratch, at), item])
        field = Field(module, c)
        words = field.to_words(field.reduce(_load(c, x)))
        for j, word in enumerate(words):
            c.store(word, _at(c, out, c.add(c.mul(vectors, I64(j)), k)), align=64)

    b = _loop(function, b, vectors, backward, down=True)
    b.ret_void()
    return function


# ---------------------------------------------------------------------- kernels


def _words(b: ir.IRBuilder, base: Any, vectors: Any, k: Any, count: int) -> list[Any]:
    return [b.load(_at(b, base, b.add(b.mul(vectors, I64(j)), k)), align=64) for j in range(count)]


def _kernel(module: ir.Module, name: str, kinds: list[Any]) -> tuple[ir.Function, ir.IRBuilder]:
    function = ir.Function(module, ir.FunctionType(_VOID, kinds), name)
    return function, ir.IRBuilder(function.append_basic_block())


def _euler_of(field: Field, euler: ir.Function, value: Limbs, slots: tuple[Any, Any]) -> Any:
    """All ones in the lanes where ``value`` (loose) is neither 0 nor a square."""
    b = field.b
    _store(b, field.carry(value), slots[0])
    b.call(euler, [slots[1], slots[0]])
    symbol = _load(b, slots[1])  # 1, -1 or 0
    return _nonzero(
        field, field.mul(symbol, field.carry(field.sub(symbol, limbs_of(1), BIAS_TIGHT)))
    )


def _encode(module: ir.Module, euler: ir.Function, affine: ir.Function) -> None:
    function, b = _kernel(module, "encode", [_POINTER, _POINTER, I64, _POINTER])
    out, source, vectors, scratch = function.args
    slots = (_room(b), _room(b))
    zs = b.mul(vectors, I64(LIMBS))

    def one(c: ir.IRBuilder, k: Any) -> None:
        field = Field(module, c)
        u = field.from_wide(_words(c, source, vectors, k, 6))
        square = field.carry(field.square(u))
        d = field.carry(field.add(limbs_of(1), field.add(square, square)))  # 1 + 2 u^2, never 0
        # x1 = -J/d; g(x1) d^4 = -J d (J^2 - J^2 d + d^2) is a square exactly when g(x1) is
        dd = field.carry(field.square(d))
        jjd = field.carry(field.add_small_product([splat(0)] * LIMBS, d, J))
        jjd = field.carry(field.add_small_product([splat(0)] * LIMBS, jjd, J))
        inner = field.sub(field.add(limbs_of(J * J), dd), jjd, BIAS_TIGHT)
        minus_jd = field.carry(field.add_small_product([splat(0)] * LIMBS, d, J))
        minus_jd = field.carry(field.sub(limbs_of(0), minus_jd, BIAS_TIGHT))
        other = _euler_of(field, euler, field.mul(minus_jd, field.carry(inner)), slots)
        # x2 = -x1 - J = J (1 - d) / d
        second = field.carry(field.sub(limbs_of(1), d, BIAS_TIGHT))
        second = field.carry(field.add_small_product([splat(0)] * LIMBS, second, J))
        first = field.carry(field.sub(limbs_of(0), limbs_of(J), BIAS_TIGHT))
        at = c.mul(k, I64(LIMBS))
        _store(c, field.choose(other, first, second), scratch, at)
        _store(c, d, scratch, c.add(zs, at))

    b = _loop(function, b, vectors, one)
    b.call(affine, [out, scratch, vectors])
    b.ret_void()


def _check(module: ir.Module, euler: ir.Function) -> None:
    function, b = _kernel(module, "check", [_POINTER, _POINTER, I64])
    flags, points, vectors = function.args
    slots = (_room(b), _room(b))

    def one(c: ir.IRBuilder, k: Any) -> None:
        field = Field(module, c)
        x = field.from_words(_words(c, points, vectors, k, 4))
        value = field.carry(field.mul(field.carry(field.add(x, limbs_of(J))), x))
        value = field.mul(field.carry(field.add(value, limbs_of(1))), x)
        c.store(_euler_of(field, euler, value, slots), _at(c, flags, k), align=64)

    _loop(function, b, vectors, one).ret_void()


def _ladder_step(module: ir.Module) -> ir.Function:
    """multiple(x_out, z_out, x_in, bits): RFC 7748, 5, for eight points and one scalar."""
    function, b = _internal(module, "multiple", [_POINTER] * 3 + [_BYTES])
    x_out, z_out, x_in, bits = function.args
    before = b.block
    inside, after = function.append_basic_block(), function.append_basic_block()
    x1 = _load(b, x_in)
    b.branch(inside)

    b = ir.IRBuilder(inside)
    field = Field(module, b)
    step, swapped = b.phi(I64), b.phi(I64)
    points = [[b.phi(VECTOR) for _ in range(LIMBS)] for _ in range(4)]
    bit = b.zext(b.load(b.gep(bits, [step])), I64)
    mask = _broadcast(b, b.sub(I64(0), b.xor(swapped, bit)))
    results = _double_and_add(field, mask, x1, points)
    following = b.add(step, I64(1))
    for phis, start, values in (
        (points[0], limbs_of(1), results[0]),
        (points[1], limbs_of(0), results[1]),
        (points[2], x1, results[2]),
        (points[3], limbs_of(1), results[3]),
        ([step, swapped], [I64(0), I64(0)], [following, bit]),
    ):
        for phi, first, value in zip(phis, start, values, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(value, inside)
    b.cbranch(b.icmp_unsigned("<", following, I64(SCALAR_BITS)), inside, after)

    b = ir.IRBuilder(after)
    field = Field(module, b)
    mask = _broadcast(b, b.sub(I64(0), bit))
    x2, z2, x3, z3 = results
    _store(b, field.carry(field.choose(mask, x2, x3)), x_out)
    _store(b, field.carry(field.choose(mask, z2, z3)), z_out)
    b.ret_void()
    return function


def _double_and_add(field: Field, mask: Any, x1: Limbs, points: list[Limbs]) -> list[Limbs]:
    """One step of the ladder on loose X2, Z2, X3, Z3."""
    x2, z2, x3, z3 = points
    p2, p3 = field.choose(mask, x2, x3), field.choose(mask, x3, x2)
    q2, q3 = field.choose(mask, z2, z3), field.choose(mask, z3, z2)
    a = field.carry(field.add(p2, q2))
    m = field.carry(field.sub(p2, q2))
    d = field.carry(field.sub(p3, q3))
    c = field.carry(field.add(p3, q3))
    aa = field.carry(field.square(a))
    bb = field.carry(field.square(m))
    da, cb = field.mul(d, a), field.mul(c, m)
    e = field.carry(field.sub(aa, bb, BIAS_TIGHT))
    difference = field.carry(field.square(field.carry(field.sub(da, cb))))
    next_x3 = field.square(field.carry(field.add(da, cb)))
    next_x2 = field.mul(aa, bb)
    next_z3 = field.mul(x1, difference)
    next_z2 = field.mul(e, field.carry(field.add_small_product(aa, e, (J - 2) // 4)))
    return [next_x2, next_z2, next_x3, next_z3]


def _broadcast(b: ir.IRBuilder, value: Any) -> Any:
    undefined = ir.Constant(VECTOR, ir.Undefined)
    single = b.insert_element(undefined, value, I32(0))
    lanes = ir.Constant(ir.VectorType(I32, LANES), [0] * LANES)
    return b.shuffle_vector(single, undefined, lanes)


def _ladder(module: ir.Module, multiple: ir.Function, affine: ir.Function) -> None:
    kinds = [_POINTER, _POINTER, _POINTER, _BYTES, I64, _POINTER]
    function, b = _kernel(module, "ladder", kinds)
    out, flags, points, bits, vectors, scratch = function.args
    base = _room(b)
    zs = b.mul(vectors, I64(LIMBS))

    def one(c: ir.IRBuilder, k: Any) -> None:
        field = Field(module, c)
        _store(c, field.from_words(_words(c, points, vectors, k, 4)), base)
        at = c.mul(k, I64(LIMBS))
        z_at = c.add(zs, at)
        c.call(multiple, [_at(c, scratch, at), _at(c, scratch, z_at), base, bits])
        z = _load(c, scratch, z_at)
        good = _nonzero(field, z)
        c.store(good, _at(c, flags, k), align=64)
        # a zero would spoil the whole batch's inversion: 1 in its place, and the flag
        _store(c, field.choose(good, limbs_of(1), z), scratch, z_at)

    b = _loop(function, b, vectors, one)
    b.call(affine, [out, scratch, vectors])
    b.ret_void()


# ---------------------------------------------------------------------- SHA-512


def _sha512(module: ir.Module) -> None:
    words = I64.as_pointer()
    function, b = _kernel(module, "sha512", [_POINTER, _POINTER, words, words, I64, I64])
    out, source, state, block, taken, vectors = function.args
    message = _room(b, 16)
    round_constants, _ = sha512_constants()

    def one(c: ir.IRBuilder, k: Any) -> None:
        for j in range(16):
            c.store(_broadcast(c, c.load(c.gep(block, [I64(j)]))), _at(c, message, j), align=64)

        def take(d: ir.IRBuilder, j: Any) -> None:
            word = d.load(_at(d, source, d.add(d.mul(vectors, j), k)), align=64)
            d.store(word, _at(d, message, j), align=64)

        d = _loop(function, c, taken, take)
        w = [d.load(_at(d, message, j), align=64) for j in range(16)]
        start = [_broadcast(d, d.load(d.gep(state, [I64(j)]))) for j in range(8)]
        for j, value in enumerate(_compress(module, d, start, w, round_constants)):
            d.store(value, _at(d, out, d.add(d.mul(vectors, I64(j)), k)), align=64)
        c.position_at_end(d.block)

    _loop(function, b, vectors, one).ret_void()


def _compress(
    module: ir.Module, b: ir.IRBuilder, start: list[Any], words: list[Any], constants: list[int]
) -> list[Any]:
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    name = "llvm.fshr.v8i64"
    shift = module.globals.get(name) or ir.Function(module, kind, name)

    def rotate(x: Any, n: int) -> Any:
        return b.call(shift, [x, x, splat(n)])

    def xor3(x: Any, y: Any, z: Any) -> Any:
        return b.xor(b.xor(x, y), z)

    w = list(words)
    s = list(start)
    for i in range(80):
        if i >= 16:
            x, y = w[i - 15], w[i - 2]
            s0 = xor3(rotate(x, 1), rotate(x, 8), b.lshr(x, splat(7)))
            s1 = xor3(rotate(y, 19), rotate(y, 61), b.lshr(y, splat(6)))
            w.append(b.add(b.add(w[i - 16], s0), b.add(w[i - 7], s1)))
        a, e = s[0], s[4]
        sum1 = xor3(rotate(e, 14), rotate(e, 18), rotate(e, 41))
        choice = b.xor(s[6], b.and_(e, b.xor(s[5], s[6])))
        t1 = b.add(b.add(b.add(s[7], sum1), b.add(choice, splat(constants[i]))), w[i])
        sum0 = xor3(rotate(a, 28), rotate(a, 34), rotate(a, 39))
        majority = b.or_(b.and_(a, s[1]), b.and_(s[2], b.or_(a, s[1])))
        s = [b.add(t1, b.add(sum0, majority)), a, s[1], s[2], b.add(s[3], t1), e, s[5], s[6]]
    return [b.add(x, y) for x, y in zip(start, s, strict=True)]


def sha512_constants() -> tuple[list[int], list[int]]:
    """Round constants and initial state: fractions of roots of primes (FIPS 180-4, 4.2.3, 5.3.5)."""
    primes = [n for n in range(2, 410) if all(n % d for d in range(2, int(n**0.5) + 1))][:80]
    return [_root(n, 3) for n in primes], [_root(n, 2) for n in primes[:8]]


def _root(n: int, degree: int) -> int:
    """64 bits after the point of n^(1/degree), by bisection on integers."""
    low, high = 0, 1 << 72
    target = n << 64 * degree
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**degree <= target else (low, middle)
    return low & (1 << 64) - 1
