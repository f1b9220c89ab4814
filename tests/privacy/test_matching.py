from __future__ import annotations

import math

import pytest
import rbcl

from privacy.errors import ParameterError, ProtocolError
from privacy.matching import group
from privacy.matching.protocol import Receiver, Sender, Terms
from privacy.matching.size import SizeNoise
from privacy.randomness import stream

SESSION = b"job"


def _items(numbers: range) -> list[bytes]:
    return [b"item %d" % n for n in numbers]


def _list(mine: list[bytes], theirs: list[bytes], seed: int = 1, bucket: int = 16) -> list[bytes]:
    terms = Terms(SESSION, bucket, 5000, None)
    random = stream(seed.to_bytes(32, "big"))
    receiver, sender = Receiver(terms, mine, random), Sender(terms, theirs, random)
    receiver.take_second(sender.second(receiver.first()))
    return [mine[i] for i in receiver.matched_items(receiver.take_third(sender.third()))]


def test_rfc_9496_appendix_a_vectors() -> None:
    one = bytes(31)
    generator = "e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76"
    twice = "6a493210f7499cd17fecb510ae0cea23a110e8d5b901f8acadd3095c73a3b919"
    assert rbcl.crypto_scalarmult_ristretto255_base(b"\x01" + one).hex() == generator
    assert group.blind(b"\x02" + one, [bytes.fromhex(generator)])[0].hex() == twice


@pytest.mark.parametrize(
    "encoding",
    [
        "00" * 32,  # the identity
        "00" + "ff" * 31,  # RFC 9496, A.2: non-canonical
        "ff" * 31 + "7f",
        "f3" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "01" + "00" * 31,  # negative
        "01" + "ff" * 30 + "7f",
        "26948d35ca62e643e26a83177332e6b6afeb9d08e4268b650f1f5bbd8d81d371",  # non-square
        "47cfc5497c53dc8e61c91d17fd626ffb1c49e2bca94eed052281b510b1117a24",
        "3eb858e78f5a7254d8c9731174a94f76755fd3941c0ac93735c07ba14579630e",  # negative xy
    ],
)
def test_invalid_points_are_refused(encoding: str) -> None:
    with pytest.raises(ProtocolError):
        group.blind(group.new_scalar(stream(bytes(32))), [bytes.fromhex(encoding)])


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [(0, 0), (0, 5), (1, 1), (2, 1), (7, 13), (31, 33), (64, 63), (257, 128), (1000, 300)],
)
@pytest.mark.parametrize("shift", ["none", "half", "all"])
def test_intersection_is_exact(mine: int, theirs: int, shift: str) -> None:
    start = {"none": 5000, "half": mine // 2, "all": 0}[shift]
    ours, others = _items(range(mine)), _items(range(start, start + theirs))
    assert sorted(_list(ours, others)) == sorted(set(ours) & set(others))


def test_duplicates_must_be_gone_before() -> None:
    terms = Terms(SESSION, 16, 100, None)
    for side in (Receiver, Sender):
        with pytest.raises(ParameterError):
            side(terms, [b"a", b"a"], stream(bytes(32)))


def test_sizes_on_the_wire_depend_on_the_bucket_only() -> None:
    noise = SizeNoise.for_mu2(1.0)
    terms = Terms(SESSION, 64, 1000, noise)
    sizes = set()
    for count in (0, 1, 63, 64):
        random = stream(count.to_bytes(32, "big"))
        receiver, sender = Receiver(terms, _items(range(count)), random), Sender(terms, [], random)
        first = receiver.first()
        sizes.add((len(first), len(sender.second(first)), len(sender.third())))
    assert sizes == {(64 + noise.dummies,) * 3}
    with pytest.raises(ParameterError):
        terms.padded(1001)


def test_wrong_shapes_end_the_match() -> None:
    terms = Terms(SESSION, 16, 64, None)
    random = stream(bytes(32))
    receiver, sender = Receiver(terms, _items(range(3)), random), Sender(terms, [], random)
    first = receiver.first()
    for bad in (first[:-1], [*first, first[0]], [*first[:-1], first[0]], first * 100):
        with pytest.raises(ProtocolError):
            sender.second(bad)
    with pytest.raises(ProtocolError):
        receiver.take_second(first[:-1])
    receiver.take_second(sender.second(first))
    third = sender.third()
    with pytest.raises(ProtocolError):
        receiver.take_third([*third[:-1], third[0]])


def test_noisy_size_is_unbiased_with_the_stated_deviation() -> None:
    """40 matches; the mean is off by six deviations with probability under 1e-8."""
    noise = SizeNoise.for_mu2(0.5)
    terms, seen = Terms(SESSION, 32, 100, noise), []
    for seed in range(40):
        random = stream(seed.to_bytes(32, "big"))
        receiver = Receiver(terms, _items(range(20)), random)
        sender = Sender(terms, _items(range(10, 30)), random)
        receiver.take_second(sender.second(receiver.first()))
        seen.append(receiver.size(receiver.take_third(sender.third())))
    deviation = noise.deviation * math.sqrt(2)
    assert abs(sum(seen) / 40 - 10) < 6 * deviation / math.sqrt(40)
    assert len(set(seen)) > 3


def test_shifted_noise_stays_in_range_and_is_charged() -> None:
    noise = SizeNoise.for_mu2(0.1)
    random = stream(bytes(32))
    drawn = [noise.draw_shifted(random) for _ in range(500)]
    assert min(drawn) >= 0
    assert max(drawn) <= noise.dummies
    assert noise.mu2 <= 0.1
    assert 0 < noise.delta < 3e-12


def test_sessions_cannot_be_compared() -> None:
    item = [b"x"]
    assert group.hash_to_group(b"one", item) != group.hash_to_group(b"two", item)
    assert group.hash_to_group(b"", [b"\x00" * 8]) != group.dummies(b"", 1)
