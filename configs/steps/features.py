"""Steps that compute features: of a file, of a random backbone, and the tokens of a split."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.console import CountProgress, FeaturizeProgress, console, rows_table
from configs.displays import show_features
from configs.head_project import HeadProject
from configs.project import Project, command_to_repeat

if TYPE_CHECKING:
    from featurize.arrays import Floats
    from featurize.data.audit.prompts import ShownSample
    from featurize.data.audit.tokens import CountedTokens
    from featurize.data.index import DatasetIndex
    from featurize.model.source import BackboneSource
    from featurize.run.job import FeaturizeJob
    from featurize.run.plan import Choose
    from featurize.store import FeatureStore
    from headtrain.head.checkpoint import TrainedHead


def plan_shown(job: "FeaturizeJob", title: str, *, choose: "Choose | None", strict: bool) -> None:
    """Plan a featurize job and show the plan; options as `run_job`."""
    from featurize.run.plan import plan_featurize

    plan = plan_featurize(job, choose)
    plan.check_samples(strict=strict)
    console().print(rows_table(title, plan.describe()))


def run_shown(job: "FeaturizeJob", title: str, **options: Any) -> None:
    """Run a featurize job, and show its plan, progress and summary; options as `run_job`."""
    from featurize.run.launch import run_job

    with FeaturizeProgress(title) as progress:
        summary = run_job(job, progress, **options)
        progress.finish(summary.counts.get("unique_tokens", 0))
    show_features(summary)


def import_shown(job: "FeaturizeJob", states: Path, title: str, **options: Any) -> None:
    """Import features of hidden states with a bar, then show the summary; see `import_features`."""
    from featurize.run.importing import import_features

    with FeaturizeProgress(title) as progress:
        summary = import_features(job, states, progress, **options)
        progress.finish(summary.counts.get("unique_tokens", 0))
    show_features(summary)


def merge_shown(job: "FeaturizeJob", paths: Sequence[str], *, overwrite: bool) -> None:
    """Merge stores with a bar, then show the summary; see `merge_features`."""
    from featurize.run.merging import merge_features
    from featurize.store import FeatureStore

    stores = [FeatureStore.open(path, job.cache_dir) for path in paths]
    with CountProgress("merge", "units") as progress:
        summary = merge_features(job, stores, progress, overwrite=overwrite)
    show_features(summary)


def featurize_file(opened: HeadProject, index: "DatasetIndex", *, repair: bool) -> "FeatureStore":
    """Compute features of a file that is not a split, as the head needs them."""
    from headtrain.scoring.provenance import open_file_store, plan_file

    settings, layout = opened.project.settings, opened.project.layout
    job = plan_file(
        opened.head,
        index,
        places=opened.places,
        featurize=settings.featurize,
        runtime=settings.runtime,
        distributed=settings.distributed,
        store_of=layout.file_features_dir,
        cache_dir=layout.cache_dir,
        repair=repair,
        command=command_to_repeat(),
    )
    names = ", ".join(source.name for source in index.sources[:3])
    run_shown(job, f"plan: featurize {names}")
    return open_file_store(job, index)


def score_random_backbone(
    project: Project, trained: "TrainedHead", stores: "Mapping[str, FeatureStore]"
) -> "dict[str, dict[str, Floats]]":
    """Score the samples of stores by a head on a random backbone, made now or found.

    Returns its scores by split and name, [samples] of each store.
    """
    from headtrain.evaluation.random_backbone import RandomBackbone

    def featurize(job: "FeaturizeJob", choose: "Choose") -> None:
        run_shown(job, f"plan: featurize {job.split} with a random backbone", choose=choose)

    with CountProgress("random backbone", "steps") as count:
        baseline = RandomBackbone(
            job_of=lambda split: project.featurize_job(
                split, command=f"critic eval --split {split} --baseline random-backbone"
            ),
            featurize=featurize,
            open_store=project.open_store,
            features_dir=project.layout.random_features_dir,
            checkpoint_dir=project.layout.random_checkpoint_dir,
            progress=count,
        )
        found = baseline.score(trained, stores)
    state = "up to date" if found.was_up_to_date else "trained"
    console().print(f"head on a random backbone {state}: {found.head}")
    return found.scores


def count_split_tokens(project: Project, index: "DatasetIndex") -> "CountedTokens":
    """Count the tokens of a split by the backbone's tokenizer, unless it was done before."""
    from featurize.data.audit.tokens import CountedTokens
    from featurize.data.token_counts import count_tokens, counts_path, find_counts, write_counts
    from featurize.model.source import load_tokenizer
    from featurize.run.recipe import describe_prompt

    settings, cache_dir = project.settings, project.layout.cache_dir
    policy, source = settings.models.policy, _find_source(project)
    described = describe_prompt(settings.prompt, source, policy)
    path = counts_path(cache_dir, index, source.tokenizer_digest, described)
    counts = find_counts(path, index)
    if counts is None:
        tokenizer = load_tokenizer(source, policy)
        with CountProgress("tokens", "samples") as progress:
            counts = count_tokens(index, tokenizer, progress, settings.prompt)
        write_counts(path, counts)
    return CountedTokens(
        counts=counts,
        tokenizer=policy.name,
        max_length=settings.dataset.max_length,
        prompt_limit=settings.dataset.prompt_limit,
    )


def read_prompts(project: Project, index: "DatasetIndex", number: int) -> "list[ShownSample]":
    """Get some samples as the backbone reads them, token by token."""
    from featurize.data.audit.prompts import show_prompts
    from featurize.model.source import load_tokenizer
    from featurize.run.recipe import make_encoder

    settings = project.settings
    tokenizer = load_tokenizer(_find_source(project), settings.models.policy)
    encoder = make_encoder(project.featurize_job("train"), tokenizer)
    return list(show_prompts(index, encoder, settings.featurize.poolings, number))


def _find_source(project: Project) -> "BackboneSource":
    """The files of the backbone."""
    from featurize.model.device import resolve_device, resolve_dtype
    from featurize.model.source import find_backbone

    policy, runtime = project.settings.models.policy, project.settings.runtime
    dtype = resolve_dtype(
        policy.dtype, resolve_device(runtime.device), mixed_precision=runtime.mixed_precision
    )
    return find_backbone(policy, project.layout.cache_dir, dtype)
