"""The gate: compares a newly evaluated model with the champion of its name, on the same held-out data.

The decision and its reason are written to the model's version in MLflow's registry, to the run and to a Prefect
artifact. Each version is decided about once. A decision that a kill interrupted is made when the run starts again.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prefect.artifacts import create_markdown_artifact

from flows.console import say
from flows.home import Home
from flows.orchestration.artifacts import artifact_key
from flows.orchestration.progress import say_outcome
from flows.orchestration.task_runners import uncached_task
from flows.outcome import Outcome
from flows.tracking.refusals import going_without
from flows.tracking.registry import WHY, decision_on, record_decision, set_champion
from flows.tracking.tracker import Tracker
from gpt.config import Config
from pipelines.catalog.registry import CHALLENGER, CHAMPION, DECISION, KEPT_BACK, ModelVersion, find_version, registered
from pipelines.chain import Evaluated, Perform, corpus_of, with_tokenizer_of
from pipelines.config import ClassificationRun, RunConfig
from pipelines.corpus.examples import EXAMPLES
from pipelines.errors import InputError
from pipelines.evaluation.assistant import EVALUATE_ASSISTANT
from pipelines.evaluation.classifier import EVALUATE_CLASSIFIER
from pipelines.evaluation.compare import evaluations_of, shown
from pipelines.evaluation.language_model import EVALUATE_LANGUAGE
from pipelines.evaluation.promotion import Ruling, decide
from pipelines.store.dataset import Dataset
from pipelines.store.intact import Damaged
from pipelines.store.step import Step, StepType
from pipelines.tokens.tokenize import TOKENIZE, TokenizeConfig
from pipelines.tokens.tokenizer import FILE
from pipelines.visible import in_markdown

FIRST = "The first model of its name."


@dataclass(frozen=True)
class Gate:
    """Decides which models become champions, with the parts of a run that this takes."""

    perform: Perform
    home: Home
    tracker: Tracker
    config: RunConfig
    again: bool = False

    def pass_all(self, evaluated: Sequence[Evaluated]) -> list[Outcome]:
        """Decide about each model, as a Prefect task each."""
        return [outcome for each in evaluated if (outcome := self._as_task(each))]

    def _as_task(self, evaluated: Evaluated) -> Outcome | None:
        name = evaluated.model.ref.name

        @uncached_task(name="promote", task_run_name=f"promote {name}", tags=["tokenmill", "promotion", name])
        def promote() -> Outcome | None:
            started = time.perf_counter()
            version, decision = self.decide(evaluated)
            if version is None:
                return None
            known = None if self.again else decision_on(version)
            summary = known or f"{version} {'promoted' if decision.promoted else 'kept back'}. {decision.why}"
            outcome = Outcome("promote", evaluated.model, time.perf_counter() - started, bool(known), summary)
            if self.tracker.parent:
                self.tracker.client.set_tag(self.tracker.parent, f"tokenmill.promotion.{name}", summary)
            if not known:
                say_outcome(outcome)
                _publish(name, summary, decision)
            return outcome

        return promote()

    def decide(self, evaluated: Evaluated) -> tuple[ModelVersion | None, Ruling]:
        """Decide about a model and carry the decision out.

        Returns:
            The version as it was before (None if the model is not registered), and the decision.
        """
        client, name = self.tracker.client, evaluated.model.ref.name
        while True:
            versions = registered(self.home.mlflow_uri, name)
            fingerprint = evaluated.model.ref.fingerprint  # the newest version that holds exactly these weights
            ours = next((each for each in reversed(versions) if each.fingerprint == fingerprint), None)
            if ours is None:
                return None, Ruling(False, f"{evaluated.model} is not in MLflow's registry.")
            if DECISION in ours.tags and not self.again:
                return ours, Ruling(CHAMPION in ours.aliases, ours.tags.get(WHY, ""))
            champion = next((each for each in versions if CHAMPION in each.aliases), None)
            if champion is None or champion == ours:  # the latter: killed between the alias and the decision
                decision = Ruling(True, ours.tags.get(WHY, FIRST) if champion else FIRST)
            else:
                decision = self._against(champion, evaluated)
            with self.home.store.lock(f"registry-{name}"):
                now = find_version(self.home.mlflow_uri, name, CHAMPION)
                if (now and now.version) != (champion and champion.version):
                    continue  # another run has moved it meanwhile
                tags = {"tokenmill.evaluation": str(evaluated.evaluation), "tokenmill.against": str(champion or "")}
                if decision.promoted:
                    set_champion(client, name, ours.version, decision.why, tags)
                else:
                    record_decision(client, name, ours.version, KEPT_BACK, decision.why, tags)
                return ours, decision

    def _against(self, champion: ModelVersion, evaluated: Evaluated) -> Ruling:
        step, name = evaluated.step, f"{champion.name}-{CHAMPION}"
        try:
            model = self.home.store.open(f"{champion.name}@{champion.fingerprint}", kind="model")
            inputs = {**step.inputs, "model": model}
            if "tokens" in inputs:
                inputs["tokens"] = self._tokens(inputs["tokens"], model)
            evaluation = evaluation_on(self.perform, self.home, step.type.using(name, step.config, inputs))
        except InputError as error:
            return Ruling(False, f"The champion {champion} cannot be judged on the same data: {error}")
        decision = decide(evaluated.evaluation, evaluation, self.config.promote)
        return Ruling(decision.promoted, f"Against {champion}: {decision.why}", decision.differences)

    def _tokens(self, tokens: Dataset, champion: Dataset) -> Dataset:
        """Return the held-out text in the champion's tokens, which may differ from the challenger's."""
        if tokens.manifest.files[FILE].sha256 == champion.manifest.files[FILE].sha256:
            return tokens
        corpus = self.home.store.open(tokens.manifest.inputs["corpus"])
        config = TokenizeConfig.model_validate(tokens.manifest.config)
        return tokens_by(self.perform, self.home, f"{tokens.ref.name}-{CHAMPION}", config, corpus, champion)


def _publish(name: str, summary: str, decision: Ruling) -> None:
    rows = "".join(
        f"| {in_markdown(each.metric)} | {shown(each.first)} | {shown(each.second)} | "
        f"{'not tested' if each.p is None else format(each.p, '.3g')} | {each.verdict()} |\n"
        for each in decision.differences
    )
    head = "| metric | champion | challenger | p | challenger is |\n| --- | --- | --- | --- | --- |\n"
    table = f"\n\n{head}{rows}" if rows else ""
    with going_without(f"the decision about {name} in Prefect"):
        create_markdown_artifact(
            f"## {in_markdown(summary)}{table}", key=artifact_key(f"promotion-{name}"), description="Who is champion"
        )


# Evaluating registered models on today's data


def evaluate_registered(
    perform: Perform, config: RunConfig, home: Home, which: Callable[[Sequence[ModelVersion]], Sequence[ModelVersion]]
) -> list[Evaluated]:
    """Evaluate registered models of a run on its held-out data as it is today. Nothing is trained.

    Args:
        which: picks the versions of a name to evaluate. Versions that are no longer in the store are skipped.
    """
    evaluated = []
    for name, type, settings, held_out in _held_out(perform, config):
        for version in which(registered(home.mlflow_uri, name)):
            try:
                model = home.store.open(f"{name}@{version.fingerprint}", kind="model")
            except InputError as error:
                say(str(error) if isinstance(error, Damaged) else f"{version} is no longer in the store")
                continue
            role = CHAMPION if CHAMPION in version.aliases else CHALLENGER
            inputs = {"model": model}
            if corpus := held_out.get("corpus"):
                inputs["tokens"] = tokens_by(perform, home, config.data, config.tokenize, corpus, model)
            step = type.using(f"{name}-{role}", settings, inputs | held_out)
            evaluated.append(Evaluated(step, evaluation_on(perform, home, step)))
    return evaluated


def _held_out(perform: Perform, config: RunConfig) -> Iterator[tuple[str, StepType, Config, dict[str, Dataset]]]:
    """Yield the name of each model of a run, its evaluation with its config, and its held-out data."""
    yield config.name, EVALUATE_LANGUAGE, config.evaluate, {"corpus": corpus_of(perform, config)}
    for key, part in config.finetune.items():
        type = EVALUATE_CLASSIFIER if isinstance(part, ClassificationRun) else EVALUATE_ASSISTANT
        yield f"{config.name}-{key}", type, part.evaluate, {"examples": perform(EXAMPLES.using(key, part.examples))}


def evaluation_on(perform: Perform, home: Home, step: Step) -> Dataset:
    """Return an evaluation of the step's model, as the step makes it, on held-out data of the same content.

    It is made now if there is none.
    """
    held_out = {role: step.inputs[role].ref.digest for role in ("tokens", "examples") if role in step.inputs}
    wanted = (step.type.name, step.type.version, step.config.model_dump(mode="json"), held_out)
    for each in evaluations_of(step.inputs["model"].ref, home.store.list("evaluation")):
        manifest = each.manifest
        its_held_out = {role: ref.digest for role, ref in manifest.inputs.items() if role in held_out}
        if (manifest.step, manifest.step_version, manifest.config, its_held_out) == wanted:
            return each
    return perform(step)


def tokens_by(
    perform: Perform, home: Home, name: str, config: TokenizeConfig, corpus: Dataset, model: Dataset
) -> Dataset:
    """Return a corpus in a model's tokens, found or made now."""
    for each in reversed(home.store.list("tokens")):
        files = each.manifest.files
        if each.manifest.inputs["corpus"] == corpus.ref and files[FILE].sha256 == model.manifest.files[FILE].sha256:
            return each
    return perform(TOKENIZE.using(name, with_tokenizer_of(model, config), {"corpus": corpus}))
