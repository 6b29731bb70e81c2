import pytest

from app import catalog
from engine import registry


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_the_registry_binds_exactly_the_names_of_the_catalog(kind):
    bound = getattr(registry, kind.upper())
    assert set(bound) == set(catalog.KINDS[kind])
    assert all(callable(function) for function in bound.values())


@pytest.mark.parametrize(("name", "entry"), catalog.ARCHITECTURES.items())
def test_every_architecture_is_built_from_its_default_parameters(name, entry):
    assert registry.ARCHITECTURES[name](entry.params(), 1, 3) is not None
