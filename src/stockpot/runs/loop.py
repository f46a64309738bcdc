"""The loop over tasks: the method starts, trains and ends; then all tasks are evaluated, and the task is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stockpot import files, methods
from stockpot.garbage import set_imports_aside
from stockpot.methods.base import Method, Task
from stockpot.models import lora
from stockpot.models.head import name_rows
from stockpot.models.start import build_start_model
from stockpot.results import Costs
from stockpot.runs.brought_code import changed_code
from stockpot.runs.evaluating import evaluate_model
from stockpot.runs.events import LearntTask
from stockpot.runs.meter import Clock, peak_memory, reset_peak_memory
from stockpot.runs.recording import publish_model, record_task
from stockpot.runs.session import Session
from stockpot.runs.stream_trackers import StreamTrackers, TaskCurve, stream_trackers
from stockpot.runs.weighing import weigh_classes
from stockpot.seeds import derive, seed_everything
from stockpot.training import dispatch
from stockpot.training.job import Interrupted, Job, check_finite, planned_steps, training_arguments
from stockpot.training.seen import seen_in


def learn_stream(session: Session) -> None:
    """Learns every task that the run has not learnt yet. Raises Interrupted when a stop was requested."""
    dispatch.import_loop(session.recipe.loop)
    set_imports_aside()  # now, while no model is in memory: it would never be collected
    with stream_trackers(session) as trackers:
        if not session.run.journal.of("started"):
            start(session)
        trackers.rows()
        for index in range(len(session.run.finished), len(session.stream.tasks)):
            if session.stop.requested:
                raise Interrupted
            learn(session, index, trackers)
            trackers.rows()


def start(session: Session) -> None:
    """Publishes and evaluates the start model."""
    run, recipe, rows = session.run, session.recipe, session.rows(-1)
    run.journal.check_place()
    model, drawn = build_start_model(
        recipe.model, rows, run.seed, recipe.kind, session.stream.tokenizer, recipe.problem
    )
    name_rows(model, list(session.stream.rows.names[:rows]))
    scores = evaluate_model(session, model.to(session.device), learnt=0)
    publish_model(session, model, -1)
    run.journal.append({"event": "started", "files": files.fingerprint(run.model(-1)), "drawn": drawn, **scores})


def learn(session: Session, index: int, trackers: StreamTrackers) -> None:
    """One task: start, train, end, evaluate, record."""
    run, stream, recipe = session.run, session.stream, session.recipe
    run.journal.check_place()
    reset_peak_memory()
    language = not stream.has_classes
    method = methods.build(recipe.method.decided(stream.rows.count(run.begun_tasks), language))
    model, grown = session.starting_model(method.config.starts_from, index)
    if recipe.model.lora is not None:
        model = lora.attach(model, recipe.model.lora, derive(run.seed, "lora", index))
    carried = session.load_method(method, index)
    task = Task(
        index=index,
        name=stream.tasks[index].name,
        seed=derive(run.seed, "task", index),
        model=model,
        past=[lambda past=past: stream.train(past) for past in range(index)],  # type: ignore[misc]
        checkpoint=lambda source: session.checkpoint(source, index),
        new=grown,
        rows=stream.rows.tasks[: index + 1],
        owners=stream.rows.owners(session.rows(index), index + 1 if recipe.head == "masked" else None),
        language=language,
        problem=recipe.problem,
        origin=recipe.model.origin,
        drawn=run.drawn(index),
        sample=stream.other,
        adapted=recipe.model.lora is not None,
    )
    seed_everything(task.seed)
    examples = stream.train(index)
    data = method.training_data(task, examples)
    if (mixture := stream.mixture(index)) is not None:
        data = data.mixed_with(mixture)
    settings = {**recipe.train, **run.tasks[index].train}
    class_weights, weights_notes = weigh_classes(session, settings, data, index)
    job = Job(
        model=model,
        method=method,
        data=data,
        settings=settings,
        seed=task.seed,
        folder=run.checkpoints(index),
        owners=task.owners,
        class_weights=class_weights,
        problem=task.problem,
        optimizer_state=carried if recipe.boundary == "keep-optimizer" else None,
        stop=session.stop,
    )
    task.total_steps = planned_steps(job)
    method.task_start(task)

    session.progress.task(index + 1, len(stream.tasks), task.name)
    clock = _resume(session, job, index)
    curve = trackers.curve(index, method)
    _watch(job, session, clock, curve)
    optimizer_state = dispatch.train(job, recipe.loop)
    if task.adapted:
        task.model = model = lora.stack(model) if recipe.model.adapts else lora.fold_adapter(model)
    method.task_end(task, examples)
    if curve is not None:
        curve.averaged(task.total_steps)
    costs = _costs(clock, method, task, job)
    check_finite(model, task.name)

    clock = Clock()
    with method.evaluating(model):
        scores = evaluate_model(session, model, learnt=index + 1)
    costs.evaluation_seconds, costs.evaluation_cpu_seconds = clock.read()
    costs.peak_memory_bytes = peak_memory()
    notes = [*method.notes, *stream.notes(index), *weights_notes, *changed_code(run)]
    kept = optimizer_state if recipe.boundary == "keep-optimizer" else {}
    event: LearntTask = {
        "event": "task", "index": index, "name": task.name, **scores, "costs": costs.model_dump(), "notes": notes,
        "betas": method.betas,
    }  # fmt: skip
    record_task(session, model, method, kept, event)
    primary = scores["scores"][recipe.primary_score.title]
    session.progress.evaluated(dict(zip((task.name for task in stream.tasks), primary, strict=True)))


def _resume(session: Session, job: Job, index: int) -> Clock:
    """Resumes from the task's newest checkpoint, if any, and journals later ones; returns the clock of the task."""
    run = session.run
    checkpoint = run.checkpoint(index)
    wall, cpu = (0.0, 0.0) if checkpoint is None else checkpoint["seconds"]
    clock = Clock(wall, cpu)
    if checkpoint is not None:
        job.resume_from = run.checkpoint_folder(checkpoint)

    def journal(step: int, folder: Path) -> None:
        fingerprint, seconds = files.fingerprint(folder), list(clock.read())
        run.journal.append(
            {"event": "checkpoint", "task": index, "step": step, "files": fingerprint, "seconds": seconds}
        )
        run.drop_older_checkpoints(folder)

    job.before_checkpoint = run.journal.check_place
    job.on_checkpoint = journal
    return clock


def _watch(job: Job, session: Session, clock: Clock, curve: TaskCurve | None) -> None:
    """Lets the loop tell the clock, the progress and the trackers how far it is."""
    job.on_begin, job.on_step = clock.start, session.progress.step
    if curve is None:
        return

    def begin() -> None:
        curve.begin()
        clock.start()

    def step(number: int, total: int) -> None:
        session.progress.step(number, total)
        curve.averaged(number)

    job.on_begin, job.on_step, job.on_log = begin, step, curve.log


def _costs(clock: Clock, method: Method[Any], task: Task, job: Job) -> Costs:
    wall, cpu = clock.read()
    seen = seen_in(job.data, training_arguments(job.settings, job.folder, job.seed), job.seed, task.total_steps)
    costs: dict[str, Any] = {**vars(seen), **vars(method.costs), "steps": task.total_steps}
    return Costs(training_seconds=wall, training_cpu_seconds=cpu, **costs)
