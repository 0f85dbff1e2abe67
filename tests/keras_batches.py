"""The batches on which a Keras model is compared, without an export."""

from __future__ import annotations

from functools import partial
from typing import Any


def batches_of(model: Any) -> tuple[Any, list[Any]]:
    """The rows that were read, and the batches of a model."""
    from layertap_export.keras_model.subject import subject_of
    from layertap_export.verification.batches import Batches
    from layertap_export.verification.columns import column_draws
    from layertap_export.verification.row_search import RowSearch
    from layertap_export.verification.rows_read import RowsRead
    from layertap_export.verification.sample_work import sample_work
    from layertap_export.verification.uses import follow

    subject = subject_of(model)
    traced = subject.trace()
    uses = follow(traced)
    layers = {x.layer.name: x.layer.name for x in traced.rows if x.symbol is not None}
    run = subject.runner(layers, [info.name for info in traced.outputs], traced)
    rows = RowsRead(traced, uses.tables)
    search = RowSearch.of(traced, rows, subject.inputs)
    batches = Batches(
        subject.inputs,
        uses,
        subject.layers,
        None,
        run,
        sizes={},
        work=partial(sample_work, traced),
        rows=rows,
        search=search,
        columns=column_draws(traced, uses, subject.inputs, subject.layers),
    )
    return rows, [batch for batch, _ in batches]
