"""The gate: a model that was just evaluated against the champion of its name, on the same held-out data.

What was decided, and why, is written to the model's version in MLflow's registry, to the run and to a Prefect artifact.
A version is decided about once; a decision that a kill interrupted is made when the run is started again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE

from flows.commands.compare import shown, verdict
from flows.console import say
from flows.home import Home
from flows.orchestration.artifacts import artifact_key
from flows.outcome import Outcome
from flows.tracking.registry import DECISION, KEPT_BACK, WHY, decision_on, record_decision, set_champion
from flows.tracking.tracker import Tracker
from gpt.config import Config
from pipelines.catalog.registry import CHALLENGER, CHAMPION, ModelVersion, find_version, registered
from pipelines.chain import Judged, Perform, with_tokenizer_of
from pipelines.config import ClassificationRun, RunConfig
from pipelines.corpus.examples import EXAMPLES
from pipelines.errors import InputError
from pipelines.evaluation.assistant import EVALUATE_ASSISTANT
from pipelines.evaluation.classifier import EVALUATE_CLASSIFIER
from pipelines.evaluation.compare import evaluations_of
from pipelines.evaluation.language_model import EVALUATE_LANGUAGE
from pipelines.evaluation.promotion import Ruling, decide
from pipelines.store.dataset import Dataset
from pipelines.store.step import StepType
from pipelines.tokens.tokenize import TOKENIZE, TokenizeConfig
from pipelines.tokens.tokenizer import FILE

FIRST = "The first model of its name."


@dataclass(frozen=True)
class Gate:
    """Decides about models, with what a run has at hand."""

    perform: Perform
    home: Home
    tracker: Tracker
    config: RunConfig
    again: bool = False

    def pass_all(self, judged: Sequence[Judged]) -> list[Outcome]:
        """Decide about each model, as a Prefect task each."""
        return [outcome for each in judged if (outcome := self._as_task(each))]

    def _as_task(self, judged: Judged) -> Outcome | None:
        name = judged.model.ref.name
        outcomes: list[Outcome] = []

        @task(
            name="promote",
            task_run_name=f"promote {name}",
            tags=["tokenmill", "promotion", name],
            cache_policy=NO_CACHE,
            persist_result=False,
        )
        def promote() -> str:
            started = time.perf_counter()
            version, decision = self.decide(judged)
            if version is None:
                return decision.why
            known = None if self.again else decision_on(version)
            said = known or f"{version} {'promoted' if decision.promoted else 'kept back'}. {decision.why}"
            outcomes.append(Outcome("promote", judged.model, time.perf_counter() - started, bool(known), said))
            if self.tracker.parent:
                self.tracker.client.set_tag(self.tracker.parent, f"tokenmill.promotion.{name}", said)
            if not known:
                say(f"{'promote':<19} {outcomes[-1].seconds:5.1f} s  {said}")
                _publish(name, said, decision)
            return said

        promote()
        return outcomes[0] if outcomes else None

    def decide(self, judged: Judged) -> tuple[ModelVersion | None, Ruling]:
        """What becomes of a model, carried out; the version as it was before, None if it is not registered."""
        client, name = self.tracker.client, judged.model.ref.name
        while True:
            versions = registered(self.home.mlflow_uri, name)
            ours = _version(versions, judged.model)
            if ours is None:
                return None, Ruling(False, f"{judged.model} is not in MLflow's registry.")
            if DECISION in ours.tags and not self.again:
                return ours, Ruling(CHAMPION in ours.aliases, ours.tags.get(WHY, ""))
            champion = next((each for each in versions if CHAMPION in each.aliases), None)
            if champion is None or champion == ours:  # the latter: killed between the alias and the decision
                decision = Ruling(True, ours.tags.get(WHY, FIRST) if champion else FIRST)
            else:
                decision = self._against(champion, judged)
            with self.home.store.lock(f"registry-{name}"):
                now = find_version(self.home.mlflow_uri, name, CHAMPION)
                if (now and now.version) != (champion and champion.version):
                    continue  # another run has moved it meanwhile
                tags = {"tokenmill.evaluation": str(judged.evaluation), "tokenmill.against": str(champion or "")}
                if decision.promoted:
                    set_champion(client, name, ours.version, decision.why, tags)
                else:
                    record_decision(client, name, ours.version, KEPT_BACK, decision.why, tags)
                return ours, decision

    def _against(self, champion: ModelVersion, judged: Judged) -> Ruling:
        name, store = champion.name, self.home.store
        try:
            model = store.open(f"{name}@{champion.fingerprint}", kind="model")
            inputs = {**judged.inputs, "model": model}
            if "tokens" in inputs:
                inputs["tokens"] = self._tokens(judged, model)
            evaluation = evaluation_on(self.perform, self.home, judged.type, judged.config, inputs, CHAMPION)
        except InputError as error:
            return Ruling(False, f"The champion {champion} cannot be judged on the same data: {error}")
        decision = decide(judged.evaluation, evaluation, self.config.promote)
        return Ruling(decision.promoted, f"Against {champion}: {decision.why}", decision.differences)

    def _tokens(self, judged: Judged, champion: Dataset) -> Dataset:
        """The held-out text in the champion's tokens, which may be others than the challenger's."""
        tokens = judged.inputs["tokens"]
        if tokens.manifest.files[FILE].sha256 == champion.manifest.files[FILE].sha256:
            return tokens
        corpus = self.home.store.open(tokens.manifest.inputs["corpus"])
        config = TokenizeConfig.model_validate(tokens.manifest.config)
        return tokens_by(self.perform, self.home, f"{tokens.ref.name}-{CHAMPION}", config, corpus, champion)


def _version(versions: Sequence[ModelVersion], model: Dataset) -> ModelVersion | None:
    """The newest version that holds these very weights."""
    found = [each for each in versions if each.fingerprint == model.ref.fingerprint]
    return found[-1] if found else None


def _publish(name: str, said: str, decision: Ruling) -> None:
    from prefect.artifacts import create_markdown_artifact

    rows = "".join(
        f"| {each.metric} | {shown(each.first)} | {shown(each.second)} | {_p(each.p)} | {verdict(each)} |\n"
        for each in decision.differences
    )
    head = "| metric | champion | challenger | p | challenger is |\n| --- | --- | --- | --- | --- |\n"
    table = f"\n\n{head}{rows}" if rows else ""
    create_markdown_artifact(f"## {said}{table}", key=artifact_key(f"promotion-{name}"), description="Who is champion")


def _p(p: float | None) -> str:
    return "not tested" if p is None else f"{p:.3g}"


# Judging what is registered, on today's data


def judge_registered(
    perform: Perform,
    config: RunConfig,
    home: Home,
    corpus: Dataset,
    which: Callable[[Sequence[ModelVersion]], Sequence[ModelVersion]],
) -> list[Judged]:
    """Evaluate registered models of a run on its held-out data as it is today. Nothing is trained.

    Args:
        corpus: the run's text as it is today.
        which: of the versions of a name, those to evaluate. Those that are no longer in the store are passed over.
    """
    judged = []

    def judge(type: StepType, config: Config, name: str, inputs: Callable[[Dataset], Mapping[str, Dataset]]) -> None:
        for version in which(registered(home.mlflow_uri, name)):
            try:
                model = home.store.open(f"{name}@{version.fingerprint}", kind="model")
            except InputError:
                say(f"{version} is no longer in the store")
                continue
            roles = {"model": model, **inputs(model)}
            role = CHAMPION if CHAMPION in version.aliases else CHALLENGER
            judged.append(Judged(type, config, roles, evaluation_on(perform, home, type, config, roles, role)))

    judge(
        EVALUATE_LANGUAGE,
        config.evaluate,
        config.name,
        lambda model: {
            "tokens": tokens_by(perform, home, config.data, config.tokenize, corpus, model),
            "corpus": corpus,
        },
    )
    for key, part in config.finetune.items():
        examples = perform(EXAMPLES, key, part.examples, {})
        type = EVALUATE_CLASSIFIER if isinstance(part, ClassificationRun) else EVALUATE_ASSISTANT
        judge(type, part.evaluate, f"{config.name}-{key}", lambda model, examples=examples: {"examples": examples})  # type: ignore[misc]
    return judged


def evaluation_on(
    perform: Perform, home: Home, type: StepType, config: Config, inputs: Mapping[str, Dataset], role: str
) -> Dataset:
    """The evaluation of a model on held-out data of the same content, made now if there is none."""
    held_out = {role: inputs[role].ref.digest for role in ("tokens", "examples") if role in inputs}
    for each in evaluations_of(inputs["model"].ref, home.store.list("evaluation")):
        manifest = each.manifest
        same = (type.name, type.version, config.model_dump(mode="json"))
        if (manifest.step, manifest.step_version, manifest.config) == same and all(
            role in manifest.inputs and manifest.inputs[role].digest == digest for role, digest in held_out.items()
        ):
            return each
    return perform(type, f"{inputs['model'].ref.name}-{role}", config, inputs)


def tokens_by(
    perform: Perform, home: Home, name: str, config: TokenizeConfig, corpus: Dataset, model: Dataset
) -> Dataset:
    """A corpus in a model's tokens, found or made now."""
    for each in reversed(home.store.list("tokens")):
        files = each.manifest.files
        if each.manifest.inputs["corpus"] == corpus.ref and files[FILE].sha256 == model.manifest.files[FILE].sha256:
            return each
    return perform(TOKENIZE, name, with_tokenizer_of(model, config), {"corpus": corpus})
