"""The gate: compares a newly evaluated model with the champion of its name, on items that chose nothing.

The decision and its reason are written to the model's version in MLflow's registry, to the run and to a Prefect
artifact. Each version is decided about once. A decision that a kill interrupted is made when the run starts again.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from prefect.artifacts import create_markdown_artifact

from flows.console import say
from flows.home import Home
from flows.orchestration.artifacts import artifact_key
from flows.orchestration.progress import say_outcome
from flows.orchestration.task_runners import uncached_task
from flows.outcome import Outcome
from flows.tracking.refusals import going_without
from flows.tracking.registry import WHY, by_hand, decision_on, record_decision, set_champion, undecided
from flows.tracking.tracker import Tracker
from gpt.config import Config
from pipelines.catalog.registry import (
    AGAINST,
    CHALLENGE,
    CHALLENGER,
    CHAMPION,
    DECISION,
    ITEMS,
    KEPT_BACK,
    NOT_PROMOTED,
    PROMOTED,
    ModelVersion,
    registered,
)
from pipelines.chain import Evaluated, Perform, corpus_of, with_tokenizer_of
from pipelines.config import ClassificationRun, RunConfig
from pipelines.corpus.examples import EXAMPLES
from pipelines.corpus.kept_out import FEWEST, chose_on_all
from pipelines.errors import InputError
from pipelines.evaluation.assistant import EVALUATE_ASSISTANT, EvaluateAssistantConfig
from pipelines.evaluation.classifier import EVALUATE_CLASSIFIER
from pipelines.evaluation.compare import evaluations_of, items_digest, shown
from pipelines.evaluation.language_model import EVALUATE_LANGUAGE, EvaluateLanguageConfig
from pipelines.evaluation.promotion import Ruling, decide, too_few
from pipelines.evaluation.tasks import TRIAL
from pipelines.evaluation.trial import BASELINES, TRY, TrialConfig, count_items
from pipelines.store.dataset import Dataset
from pipelines.store.intact import Damaged
from pipelines.store.step import Step, StepType
from pipelines.tokens.tokenize import TOKENIZE, TokenizeConfig
from pipelines.tokens.tokenizer import FILE
from pipelines.visible import in_markdown


@dataclass(frozen=True)
class Gate:
    """Decides which models become champions, with the parts of a run that this takes."""

    perform: Perform
    home: Home
    tracker: Tracker
    config: RunConfig
    again: bool = False

    def pass_all(self, evaluated: Sequence[Evaluated]) -> list[Outcome]:
        """Decide about each model, as a Prefect task each. Decide nothing if the config says so."""
        decide = self._as_task if self.config.promote.enabled else self._left_open
        return [outcome for each in evaluated if (outcome := decide(each))]

    def _left_open(self, evaluated: Evaluated) -> Outcome | None:
        if version := self._version_of(evaluated):
            return Outcome("promote", evaluated.model, 0.0, True, decision_on(version) or undecided(version))
        return None

    def _as_task(self, evaluated: Evaluated) -> Outcome | None:
        name = evaluated.model.ref.name

        @uncached_task(name="promote", task_run_name=f"promote {name}", tags=["tokenmill", "promotion", name])
        def promote() -> Outcome | None:
            started = time.perf_counter()
            version, decision = self.decide(evaluated)
            if version is None:
                return None
            known = None if self.again else decision_on(version)
            summary = known or f"{version} {_decided(decision)}. {decision.why}"
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
            ours = self._version_of(evaluated, versions)
            if ours is None:
                return None, Ruling(False, f"{evaluated.model} is not in MLflow's registry.")
            if DECISION in ours.tags and not self.again:
                return ours, Ruling(CHAMPION in ours.aliases, ours.tags.get(WHY, ""))
            champion = next((each for each in versions if CHAMPION in each.aliases), None)
            if champion == ours:  # killed between the alias and the decision
                decision = Ruling(True, ours.tags.get(WHY, "It is the champion already."))
            else:
                decision = self._decision(ours, champion, versions, evaluated)
            with self.home.store.lock(f"registry-{name}"):
                now = registered(self.home.mlflow_uri, name)
                moved = next((each.version for each in now if CHAMPION in each.aliases), None)
                if moved != (champion and champion.version):
                    continue  # another run has moved it meanwhile
                if decision.items and _challenge(ours, champion, now, decision.items) != decision.challenge:
                    continue  # another run has challenged it meanwhile
                tags = {"tokenmill.evaluation": str(evaluated.evaluation)}
                if champion != ours:
                    tags[AGAINST] = str(champion or "")
                if decision.items:
                    tags |= {ITEMS: decision.items, CHALLENGE: str(decision.challenge)}
                if decision.promoted:
                    set_champion(client, name, ours.version, decision.why, tags)
                else:
                    record_decision(client, name, ours.version, _decided(decision), decision.why, tags)
                return ours, decision

    def _version_of(self, evaluated: Evaluated, versions: Sequence[ModelVersion] | None = None) -> ModelVersion | None:
        """Return the newest version that holds exactly these weights."""
        ref = evaluated.model.ref
        versions = registered(self.home.mlflow_uri, ref.name) if versions is None else versions
        return next((each for each in reversed(versions) if each.fingerprint == ref.fingerprint), None)

    def _decision(
        self, ours: ModelVersion, champion: ModelVersion | None, versions: Sequence[ModelVersion], evaluated: Evaluated
    ) -> Ruling:
        """Compare the trials of a challenger and of the champion, or of the simplest baseline if there is none."""
        step, model = evaluated.step, evaluated.model
        role = next(role for role in HELD_OUT if role in step.inputs)
        if chose_on_all(model):
            why = f"It was trained before 0.5.0, when all of the validation split chose its weights. {by_hand(ours)}"
            return Ruling(False, why)
        if (n_items := count_items(step.inputs[role])) < FEWEST:
            return Ruling(False, f"{too_few(n_items)} {by_hand(ours)}")
        inputs = {"model": model, role: step.inputs[role]}
        config = self._trial_config(evaluated)
        trial = evaluation_on(self.perform, self.home, TRY.using(ours.name, config, inputs))
        task = trial.manifest.statistics["task"]
        against = f"Against {champion}" if champion else f"The first of its name. Compared with {BASELINES[task]}"
        name = f"{ours.name}-{CHAMPION if champion else 'baseline'}"
        try:
            if champion:
                inputs["model"] = self.home.store.open(f"{champion.name}@{champion.fingerprint}", kind="model")
            else:
                config = config.model_copy(update={"baseline": True})
                if task == "instruction":
                    inputs["base"] = step.inputs.get("base") or self.home.store.open(model.manifest.inputs["model"])
            if "tokens" in inputs:
                inputs["tokens"] = self._tokens(inputs["tokens"], inputs["model"])
            other = evaluation_on(self.perform, self.home, TRY.using(name, config, inputs))
        except InputError as error:
            what = f"The champion {champion}" if champion else BASELINES[task].capitalize()
            return Ruling(False, f"{what} cannot be judged on the same data: {error}", against_it=champion is not None)
        challenge = _challenge(ours, champion, versions, items_digest(trial))
        decision = decide(trial, other, self.config.promote, challenge, with_guard=champion is not None)
        why = f"{against}: {decision.why}"
        if champion and chose_on_all(inputs["model"]):
            why += f" {champion} has an advantage: trained before 0.5.0, it chose its weights on these items too."
        if not champion and not decision.promoted:
            why += f" {by_hand(ours)}"
        return replace(decision, why=why, against_it=decision.against_it and champion is not None)

    def _trial_config(self, evaluated: Evaluated) -> TrialConfig:
        """Return how a model is tried: as it was evaluated."""
        config, promote = evaluated.step.config, self.config.promote
        if isinstance(config, EvaluateLanguageConfig):
            return TrialConfig(max_bytes=4 * config.max_tokens)
        if isinstance(config, EvaluateAssistantConfig):
            criterion = promote.criterion("instruction")
            judged = f"{TRIAL}/judge_score" in (criterion.metric, *criterion.guard)
            return TrialConfig(max_new_tokens=config.max_new_tokens, judge=config.judge if judged else None)
        return TrialConfig()

    def _tokens(self, tokens: Dataset, champion: Dataset) -> Dataset:
        """Return the held-out text in the champion's tokens, which may differ from the challenger's."""
        if tokens.manifest.files[FILE].sha256 == champion.manifest.files[FILE].sha256:
            return tokens
        corpus = self.home.store.open(tokens.manifest.inputs["corpus"])
        config = TokenizeConfig.model_validate(tokens.manifest.config)
        return tokens_by(self.perform, self.home, f"{tokens.ref.name}-{CHAMPION}", config, corpus, champion)


HELD_OUT = ("tokens", "examples")
"""The inputs of an evaluation that hold its items."""


def _decided(decision: Ruling) -> str:
    return PROMOTED if decision.promoted else KEPT_BACK if decision.against_it else NOT_PROMOTED


def _challenge(ours: ModelVersion, champion: ModelVersion | None, versions: Sequence[ModelVersion], items: str) -> int:
    """Return which challenge of a champion on some items this is. The same weights keep their number."""

    def is_one(version: ModelVersion) -> bool:
        tags = version.tags
        return CHALLENGE in tags and (tags.get(AGAINST), tags.get(ITEMS)) == (str(champion or ""), items)

    if is_one(ours):
        return int(ours.tags[CHALLENGE])
    same = ours.fingerprint
    others = {v.fingerprint for v in versions if is_one(v) and DECISION in v.tags and v.fingerprint != same}
    return 1 + len(others)


def _publish(name: str, summary: str, decision: Ruling) -> None:
    rows = "".join(
        f"| {in_markdown(each.metric)} | {shown(each.first)} | {shown(each.second)} | "
        f"{'not tested' if each.p is None else format(each.p, '.3g')} | {each.verdict()} |\n"
        for each in decision.differences
    )
    challenge = f"\n\nChallenge {decision.challenge} on these items." if decision.items else ""
    head = "| metric | champion | challenger | p | challenger is |\n| --- | --- | --- | --- | --- |\n"
    table = f"{challenge}\n\n{head}{rows}" if rows else ""
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
    """Return an evaluation or a trial of the step's model, as the step makes it, on held-out data of the same content.

    It is made now if there is none.
    """
    held_out = {role: step.inputs[role].ref.digest for role in HELD_OUT if role in step.inputs}
    wanted = (step.type.name, step.type.version, step.config.model_dump(mode="json"), held_out)
    for each in evaluations_of(step.inputs["model"].ref, home.store.list(step.type.kind)):
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
