"""Our tables, beside Optuna's in the same database. Migrations live in studies/records/migrations.

Optuna keeps parameters, values and states of trials; these tables keep what it cannot: the spec, the parents, the
recipe of each trial, every render and every score. A trial is known by its study and Optuna's trial number.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

VERSION_TABLE = "mergetune_version"

metadata = MetaData()

studies = Table(
    "mergetune_studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("key", String(32), nullable=False, unique=True),  # of its files; no study of any database has the same
    Column("spec", Text, nullable=False),  # StudySpec as JSON, absolute paths
    Column("suite_digest", String(64), nullable=False),
    Column("software", JSON, nullable=False),  # package -> version, at creation
    Column("fingerprints", JSON, nullable=False),  # scorer -> digest of the files it reads
    Column("created_at", Float, nullable=False),  # seconds since the epoch
    Column("status", String(10), nullable=False),  # active, paused, stopped: what people ask of its workers
    Column("priority", Integer, nullable=False),  # workers of several studies turn to the highest first
)

parents = Table(
    "mergetune_parents",
    metadata,
    Column("study_id", ForeignKey("mergetune_studies.id", ondelete="CASCADE"), primary_key=True),
    Column("letter", String(1), primary_key=True),
    Column("path", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("mtime_ns", BigInteger, nullable=False),  # when the study began
)

workers = Table(
    "mergetune_workers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("process", String(100)),  # what tells it from another one of that number; None where the system does not
    Column("seen_at", Float, nullable=False),  # last sign of life, by the database's clock
    Column("study_id", ForeignKey("mergetune_studies.id", ondelete="SET NULL")),  # that it is at
    Column("task", String(10)),  # what it does there: trials, final
)

trials = Table(
    "mergetune_trials",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study_id", ForeignKey("mergetune_studies.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),  # Optuna's
    Column("origin", String(100), nullable=False),  # "parent A", "uniform 0.5", "profile rising", "gp"
    Column("source", String(100)),  # "STUDY trial 12" where it was copied from, with its scores
    Column("recipe", Text, nullable=False),
    Column("recipe_digest", String(64), nullable=False),
    Column("worker_id", String(64), nullable=False),  # who may store the outcome
    Column("attempt", Integer, nullable=False),  # 1, and one more for each worker that died over it
    Column("state", String(10), nullable=False),  # running, complete, failed
    Column("reason", Text),  # why it failed, as one line
    Column("failure", String(20)),  # what kind of reason it is: a FailureKind
    Column("objectives", JSON),  # name -> value, which Optuna gets as well
    Column("constrained", JSON),  # scorer that has a constraint -> its mean, that of a stopped trial estimated
    Column("gains", JSON),  # name -> [gain over the better parent, low, high of its 95 % interval, the parent's letter]
    Column("errors", JSON),  # name -> standard error of the objective or score over the suite's items
    Column("seconds", JSON),  # stage -> seconds
    Column("machine", JSON),  # device, threads, torch: what repeating the renders exactly depends on
    Column("batch_limits", JSON),  # [component, width, height, images at once], where memory was too small for more
    Column("sheet", String(64)),  # artifact id of the contact sheet
    Column("rendered", Integer, nullable=False),  # images; those of a running trial are not known yet
    Column("incumbent", Integer),  # of a stopped trial: the number of the one it was estimated against
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float),
    UniqueConstraint("study_id", "number"),
)

renders = Table(
    "mergetune_renders",
    metadata,
    Column("trial_id", ForeignKey("mergetune_trials.id", ondelete="CASCADE"), primary_key=True),
    Column("item", Integer, primary_key=True),  # index in the suite
    Column("pixels_sha256", String(64), nullable=False),
    Column("file", Text),  # name of the PNG in the artifact store, where it is stored
)

scores = Table(
    "mergetune_scores",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("trial_id", ForeignKey("mergetune_trials.id", ondelete="CASCADE"), nullable=False),
    Column("scorer", String(200), nullable=False),
    Column("item", Integer),  # None: a score of the whole set; an item that the scorer leaves out has no row
    Column("value", Float(53), nullable=False),
    Index("ix_mergetune_scores_trial", "trial_id"),
)

finals = Table(
    "mergetune_finals",
    metadata,
    Column("study_id", ForeignKey("mergetune_studies.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),  # the trial's
    Column("place", Integer, nullable=False),  # the parents in their order, then the candidates by rank
    Column("origin", String(100), nullable=False),
    Column("objectives", JSON, nullable=False),  # name -> value on the held-out suite
    Column("image_scores", JSON, nullable=False),  # scorer -> value per item of the held-out suite, or null
    Column("set_scores", JSON, nullable=False),
    Column("constrained", JSON),  # scorer that has a constraint -> [mean, low, high of its 95 % interval]
    Column("in_sample", JSON, nullable=False),  # gains during the search, as in mergetune_trials
    Column("held_out", JSON, nullable=False),  # gains on the held-out suite
    Column("over_each", JSON),  # letter of a parent -> gains over it, where votes may make another parent the better
    Column("chosen", Boolean, nullable=False),
    Column("failure", Text),  # why it has no scores
    Column("suite_digest", String(64), nullable=False),  # of the held-out suite
    Column("complete_trials", Integer, nullable=False),  # that the final knew of: more of them outdate it
    Column("votes", Integer),  # on its renders that count in it; None where the study asks for no votes
    Column("created_at", Float, nullable=False),
)

batch_limits = Table(
    "mergetune_batch_limits",
    metadata,
    Column("study_id", ForeignKey("mergetune_studies.id", ondelete="CASCADE"), primary_key=True),
    Column("device", String(200), primary_key=True),  # its kind: name and memory
    Column("component", String(20), primary_key=True),  # unet or vae
    Column("width", Integer, primary_key=True),  # pixels
    Column("height", Integer, primary_key=True),
    Column("images", Integer, nullable=False),  # at once, after more did not fit
)

votes = Table(
    "mergetune_votes",
    metadata,
    Column("token", String(32), primary_key=True),  # drawn when the pair is shown; a vote sent twice counts once
    Column("study_id", ForeignKey("mergetune_studies.id", ondelete="CASCADE"), nullable=False),
    Column("person", String(100), nullable=False),
    Column("item", Integer, nullable=False),  # index in the suite
    Column("held_out", Boolean, nullable=False, server_default=false()),  # of the final's suite, else the search's
    Column("left_number", Integer, nullable=False),  # of the trial whose render stood there
    Column("right_number", Integer, nullable=False),
    Column("verdict", String(10)),  # left, right, equal, both_bad; None: not given yet, or taken back
    Column("shown_at", Float, nullable=False),
    Column("voted_at", Float),
    Index("ix_mergetune_votes_study", "study_id"),
)

ratings = Table(
    "mergetune_ratings",
    metadata,
    Column("token", String(32), primary_key=True),  # drawn when the render is shown; a rating sent twice counts once
    Column("study_id", ForeignKey("mergetune_studies.id", ondelete="CASCADE"), nullable=False),
    Column("person", String(100), nullable=False),
    Column("item", Integer, nullable=False),  # index in the suite
    Column("number", Integer, nullable=False),  # of the trial
    Column("rating", Integer),  # 0 to 10; None: not given yet, or taken back
    Column("shown_at", Float, nullable=False),
    Column("rated_at", Float),
    Index("ix_mergetune_ratings_study", "study_id"),
)
