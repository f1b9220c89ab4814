"""Rows 1 and 6: names that are paths, and work before consent."""

from __future__ import annotations

import os
from random import Random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protos import identity, wire
from simulations.attacks.hostile import Hostile, count
from simulations.attacks.lab import TARGET, Lab, Stage, files
from simulations.attacks.table import Attack
from simulations.attacks.tables import LIMITS

BODIES: dict[str, dict[str, object]] = {
    "hello": {"hello": wire.Hello(spec=b"{}", salt=bytes(16))},
    "prepare": {"prepare": wire.Prepare()},
    "release": {"release": wire.Release(indexes=[0])},
    "unmask": {"unmask": wire.Unmask()},
    "match": {"match": wire.Match()},
    "status": {"status": wire.Status()},
    "finish": {"finish": wire.Finish(model=b"{}")},
    "cancel": {"cancel": wire.Cancel()},
}
VICTIM = "somebody's"


def _paths(stage: Stage, rng: Random) -> str:
    """A path that would do harm, bent a little."""
    home, root = stage.world.bank, stage.world.root
    path = rng.choice(
        [str(root / VICTIM), str(home.keys), str(home.state), "../../keys", "..", ".", "",
         "../gate.db-wal", f"../../../{VICTIM}", "'; DROP TABLE jobs; --", "\0", "0" * 31]
    )  # fmt: skip
    bend = rng.randrange(6)
    if bend == 1:
        path = "0" * 32 + "/../" + path
    elif bend == 2:
        path = path.replace("/", "//") + "/"
    elif bend == 3:
        path = path + "\n" + "0" * 32
    elif bend == 4:
        path = path.replace(".", "．")
    return path


def _spoilt(lab: Lab, rng: Random) -> bool:
    """Every message with a path for a job's id, at a gate that has answered a job."""

    def start() -> Stage:
        stage = lab.stays()
        stage.room.run(count())
        (stage.world.root / VICTIM / "deep").mkdir(parents=True)
        (stage.world.root / VICTIM / "deep" / "x").write_text("x")
        return stage

    stage = lab.once("names", start)
    gate, hostile = stage.room.gates[TARGET], stage.hostile
    rows = "SELECT COUNT(*), COUNT(DISTINCT state) FROM jobs"
    before = (
        files(stage.world.root),
        gate.store.rows(rows),
        gate.journal.head(),
        hostile.spent(TARGET),
    )
    path = _paths(stage, rng)
    for body in BODIES.values():
        hostile.send(TARGET, path, **body)
    after = (
        files(stage.world.root),
        gate.store.rows(rows),
        gate.journal.head(),
        hostile.spent(TARGET),
    )
    return before != after


def _outgrown(lab: Lab, rng: Random) -> bool:
    """Hellos and unsigned envelopes, hundreds; success is an entry, a snapshot, or more than 1 MB."""
    with lab.world() as world:
        world.settings(limits={**LIMITS, "open_jobs": rng.randint(1, 8)})
        with world.room() as (room, hostile):
            gate = room.gates[TARGET]
            size, head = _bytes(hostile), gate.journal.head()
            for number in range(40):
                hostile.hello(TARGET, hostile.new(count(name=f"a{number}")))
            opened = gate.store.rows("SELECT COUNT(*) FROM jobs")[0][0]
            stranger = Ed25519PrivateKey.generate()
            for _ in range(200):
                request = hostile.request(TARGET, "0" * 32, cancel=wire.Cancel())
                hostile.raw(TARGET, rng.choice([
                    os.urandom(rng.randint(0, 2000)), wire.seal_request(stranger, request),
                    wire.serialise(wire.Envelope(request=b"\x0b" * 2000, signature=bytes(64))),
                ]))  # fmt: skip
            entries = gate.journal.head()[0] - head[0]
            snapshots = list(world.bank.snapshots.iterdir())
            return bool(snapshots) or entries > opened or _bytes(hostile) - size > 1 << 20


def _bytes(hostile: Hostile) -> int:
    home = hostile.gates[TARGET].home
    return sum(path.stat().st_size for path in home.root.rglob("*") if path.is_file())


def _replayed(lab: Lab, rng: Random) -> bool:
    """An outsider sends what he recorded once more, whole or with a field bent; success is an answer."""

    def start() -> Stage:
        stage = lab.stays()
        stage.room.run(count())
        return stage

    stage = lab.once("replay", start)
    hostile, gate = stage.hostile, stage.room.gates[TARGET]
    opened = hostile.new(count())
    hello = wire.Hello(spec=opened.job.canonical(), salt=opened.salt)
    recorded = hostile.envelope(TARGET, opened.id, hello=hello)
    hostile.raw(TARGET, recorded)
    head = gate.journal.head()
    envelope = wire.parse(wire.Envelope, recorded)
    how = rng.randrange(4)
    if how == 1:
        at = rng.randrange(len(envelope.request))
        bent = bytes([envelope.request[at] ^ (1 << rng.randrange(8))])
        envelope.request = envelope.request[:at] + bent + envelope.request[at + 1 :]
    elif how == 2:
        envelope.request += b"\x08\x01"
    elif how == 3:
        own = Ed25519PrivateKey.generate()
        envelope.signature = identity.sign(own, identity.ENVELOPE, envelope.request)
    reply = wire.parse(wire.ReplyBody, hostile.raw(TARGET, wire.serialise(envelope)).body)
    hostile.send(TARGET, opened.id, cancel=wire.Cancel())
    return not reply.HasField("refusal") or gate.journal.head()[0] > head[0] + 2


ATTACKS = [
    Attack("1", "a path for a job's id", "coordinator", "something deleted or changed", _spoilt,
           trials=150),
    Attack("6", "hellos and junk", "coordinator, outsider", "rows read, entries, 1 MB", _outgrown),
    Attack("1", "envelopes replayed, bent, forged", "outsider", "an answer", _replayed, trials=150),
]  # fmt: skip
