"""The names of datasets and models in orders, and the ids that they stand for."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.orm import Session

from app.datasets import records as datasets
from app.deletions.orders import Order
from app.models import records as models


def with_ids(session: Session, order: Order) -> Order:
    """The order with the ids of its dataset and its model. Ids are taken as they are: accepting looks them up.

    Raises:
        NotFound, Conflict: nothing has such a name, or several do.
    """
    return replace(
        order,
        dataset_id=datasets.id_of(session, order.tenant_id, order.dataset_id),
        model_id=order.model_id and models.id_of(session, order.tenant_id, order.model_id),
    )
