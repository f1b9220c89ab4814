"""``tallystick-lab``: what a researcher runs."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from privacy.errors import ParameterError
from protos import console

app = console.new_app("Simulate an alliance, run the demo, print the benchmarks.")
attack = console.new_app("Attack the gates as a coordinator and all other partners together could.")
app.add_typer(attack, name="attack")

DataOption = Annotated[
    Path | None, typer.Option("--data", help="folder with data files the installation lacks")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object")]


class Bench(StrEnum):
    """The benchmarks."""

    ROUNDS = "rounds"
    SEGMENT = "segment"
    PROPENSITY = "propensity"
    MATCH = "match"
    MASK = "mask"
    GATE = "gate"
    LINK = "link"


@app.command()
def demo(
    data: DataOption = None,
    as_json: JsonOption = False,
    keep: Annotated[bool, typer.Option("--keep", help="keep the folders to look at")] = False,
) -> None:
    """Run a real alliance of three on this machine: five jobs, their price, the pooled figures."""
    from simulations import demo as show

    show.main(data, as_json, keep)


@app.command()
def run(
    job: Annotated[Path, typer.Argument(help="job.toml over the CDNOW columns")],
    partners: Annotated[int, typer.Option(help="how many partners to simulate")] = 3,
    seed: Annotated[int | None, typer.Option(help="reproducible noise; research only")] = None,
    data: DataOption = None,
) -> None:
    """Run a job in one process: the same programs and gates, no network; CDNOW split at random."""
    from privacy.randomness import stream
    from protos import jobs
    from simulations import demo as show
    from simulations.alliances import create
    from simulations.room import Room

    if not 2 <= partners <= 100:
        raise ParameterError("--partners must be between 2 and 100")
    wanted = jobs.load(job)
    names = [f"partner{i + 1:02d}" for i in range(partners)]
    randomness = os.urandom if seed is None else stream(seed.to_bytes(32, "big"))
    with show.folder_for_a_run(keep=False) as root:
        settings = show.write_tables(show.make_tables(data, names), root)
        alliance = create(root, names, show.TERMS, settings)
        with Room(alliance, randomness=randomness) as room:
            outcome = room.run(wanted)
    mu2 = wanted.mu2(alliance.contract)
    shown: dict[str, Any] = {
        "simulated": True,
        "partners": partners,
        "epsilon": wanted.epsilon,
        "epsilon_person": alliance.contract.per_person(mu2) if mu2 else 0.0,
        "rounds": outcome.traffic.rounds,
        "bytes": outcome.traffic.bytes_in + outcome.traffic.bytes_out,
        "seconds": round(outcome.seconds, 2),
        "result": outcome.result,
    }
    typer.echo(json.dumps(shown, indent=2))


@app.command()
def flower(
    job: Annotated[Path, typer.Argument(help="job.toml over noisy sums and the CDNOW columns")],
    partners: Annotated[int, typer.Option(help="how many partitions")] = 3,
    data: DataOption = None,
) -> None:
    """Run a job with `flwr run` on Flower's own simulation engine; needs the extra `simulation`."""
    from protos import jobs
    from simulations import demo as show
    from simulations import flower as engine
    from simulations.alliances import create

    jobs.load(job)
    names = [f"partner{i + 1:02d}" for i in range(partners)]
    with show.folder_for_a_run(keep=False) as root:
        settings = show.write_tables(show.make_tables(data, names), root)
        create(root, names, show.TERMS, settings)
        typer.echo(json.dumps({"simulated": True, "result": engine.run(root, job)}, indent=2))


@app.command()
def people(
    out: Annotated[Path, typer.Argument(help="the .csv or .parquet file to write")],
    rows: Annotated[int, typer.Option(min=1, max=10_000_000, help="how many")] = 1000,
    seed: Annotated[int, typer.Option(help="which ones")] = 1,
    repeats: Annotated[
        float, typer.Option(min=0.0, max=0.5, help="share of rows that repeat a person")
    ] = 0.0,
) -> None:
    """Write a table of made-up customers with dirty identifiers, to try the masks on."""
    from client.masking.outputs import created
    from simulations import customers

    with created(out, None, None, as_is=True) as writer:
        for block in customers.blocks(rows, seed):
            writer.write(customers.repeated(block, repeats, seed) if repeats else block)
    typer.echo(f"{writer.rows} rows of made-up customers in {out}")


@app.command()
def bench(
    which: Annotated[Bench, typer.Argument(help="what to measure")],
    data: DataOption = None,
    as_json: JsonOption = False,
    quick: Annotated[bool, typer.Option("--quick", help="a smaller run, in seconds")] = False,
    peer_python: Annotated[
        Path | None,
        typer.Option("--peer-python", help="Python of an environment that holds peers, if any"),
    ] = None,
) -> None:
    """Print a benchmark's table."""
    from simulations.bench import gate, learning, link, masking, matching, report, rounds

    if peer_python is not None and not peer_python.is_file():
        raise ParameterError("--peer-python: no such file")
    measure = {
        Bench.ROUNDS: rounds.rounds,
        Bench.SEGMENT: learning.segment,
        Bench.PROPENSITY: learning.propensity,
        Bench.MATCH: matching.match,
        Bench.MASK: masking.mask,
        Bench.GATE: gate.gate,
        Bench.LINK: link.link,
    }[which]
    typer.echo(report.render(str(which), measure(data, quick, peer_python), as_json))


@attack.callback(invoke_without_command=True, no_args_is_help=False)
def attack_all(context: typer.Context) -> None:
    """Attack gates as a coordinator, a partner, an outsider or an insider could. Alone: the whole table."""
    if context.invoked_subcommand is None:
        table()


@attack.command()
def table(
    trials: Annotated[
        float, typer.Option(min=0.001, help="times as many trials as each attack has by itself")
    ] = 1.0,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="a row's number, R for residual ones, or a part of a name; may be repeated"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="which tables, messages and guesses")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Run every attack, print its rate with a 95 % interval; exit 1 if one is above chance that must not."""
    from simulations import demo as show
    from simulations.attacks import table as attacks

    chosen = [each for each in attacks.attacks() if attacks.is_named(each, only or ())]
    if not chosen:
        raise ParameterError("--only: no attack of that row or name")

    def progress(found: attacks.Measured) -> None:
        typer.echo(f"{found.attack.name}: {found.successes} of {found.trials}", err=True)

    with show.folder_for_a_run(keep=False) as root:
        done = attacks.run(chosen, seed, root, trials=trials, say=progress)
    show_as = attacks.as_json if as_json else attacks.render
    typer.echo(show_as(done, seed, attacks.now()))
    if attacks.broken(done):
        raise typer.Exit(1)


@attack.command()
def differ(
    messages: Annotated[int, typer.Option(min=1, help="how many, to each of two gates")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="which messages and tables")] = 1,
    minutes: Annotated[
        float | None, typer.Option(min=0.0, help="stop after so long, whatever was sent by then")
    ] = None,
) -> None:
    """Tell two gates that are equal but for their tables the same; print every difference."""
    from simulations import demo as show
    from simulations.attacks import differ as attacks

    told = 0

    def progress(report: attacks.Report) -> None:
        nonlocal told
        for found in report.found[told:]:
            typer.echo(str(found), err=True)
        told = len(report.found)
        typer.echo(
            f"{report.messages} messages, {told} differences, {report.seconds:.0f} s", err=True
        )

    seconds = float("inf") if minutes is None else 60.0 * minutes
    with show.folder_for_a_run(keep=False) as root:
        report = attacks.run(messages, seed, root, seconds=seconds, say=progress)
    typer.echo(report.render())
    if report.found:
        raise typer.Exit(1)


@attack.command()
def epsilon(
    runs: Annotated[
        int | None, typer.Option(min=20, help="of each arm; 5000, or 1200 of each planted fault")
    ] = None,
    program: Annotated[
        list[str] | None,
        typer.Option(help="query, segment, propensity or evaluate; may be given more than once"),
    ] = None,
    accounted: Annotated[
        float, typer.Option("--epsilon", min=0.1, max=16.0, help="that each job is charged")
    ] = 4.0,
    planted: Annotated[
        bool,
        typer.Option("--planted", help="with seven faults planted, to show that it finds them"),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="which noise")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Measure how much of a person the noisy sums show, beside the epsilon that they are charged."""
    from simulations import demo as show
    from simulations.attacks import epsilon as attacks

    measure = attacks.faulty if planted else attacks.sound
    known = attacks.PLANTED_IN if planted else attacks.PROGRAMS
    for name in program or ():
        if name not in known:
            raise ParameterError(f"--program: one of {', '.join(known)}")
    usual = attacks.PLANTED_RUNS if planted else attacks.RUNS

    def progress(found: attacks.Audit) -> None:
        typer.echo(found.line(), err=True)

    with show.folder_for_a_run(keep=False) as root:
        audits = measure(
            root,
            runs or usual,
            epsilon=accounted,
            seed=seed,
            programs=program or known,
            say=progress,
        )
    typer.echo(attacks.render(audits, as_json))
    if attacks.failed(audits):
        raise typer.Exit(1)


@attack.command()
def fuzz(
    inputs: Annotated[int, typer.Option(min=1, help="how many, to all targets together")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="which ones")] = 1,
    seconds: Annotated[
        float | None, typer.Option(min=1.0, help="stop after so long, whatever was given by then")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="one target, or TARGET/PERIOD: a period again that had a fault"),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="processes")] = 2,
    keep: Annotated[
        Path | None, typer.Option(help="folder for inputs at fault; they hold made-up data only")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Give bent messages, frames, replies, files and tables to whatever takes some; exit 1 at any fault."""
    from simulations.attacks import fuzz as attacks

    attacks.parse_only(only)
    steps = attacks.Steps(lambda line: typer.echo(line, err=True))
    with attacks.workplace() as folder:
        report = attacks.run(
            inputs, seed, folder, seconds=seconds or float("inf"), only=only, workers=workers,
            keep=keep, say=steps,
        )  # fmt: skip
    typer.echo(json.dumps(report.plain(), indent=2) if as_json else report.render())
    if report.faults:
        raise typer.Exit(1)


main = console.entry(app)

if __name__ == "__main__":
    main()
