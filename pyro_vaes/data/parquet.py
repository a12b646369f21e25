"""Parquet files as shards: a row group is what is read at once. The reader is pyarrow's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vaes.errors import InputError, first_line

LABELS = ("label", "y")


class Parquet:
    """Read row groups of files that have the same columns.

    A column of lists of one fixed length holds a datum in each row; without one, every column of numbers is an entry.
    A column ``label`` or ``y`` of whole numbers holds the labels, a column that pandas calls the index nothing. Bytes
    stay bytes; other numbers become float32.

    Attributes:
        units: (file, row group, rows) of every row group that is not empty.
        shape: of a datum. dtype: numpy's, uint8 or float32. labelled: whether there are labels.
    """

    def __init__(self, paths: Sequence[Path]):
        self.pq = _pyarrow()
        self.paths, self.units = list(paths), []
        self._schema: Any = None
        for i, path in enumerate(self.paths):
            with _opened(self.pq, path) as file:
                schema, groups = file.schema_arrow, file.metadata
                if self._schema is None:
                    self._read_schema(path, schema)
                elif self._columns_of(schema) != self._columns_of(self._schema):
                    raise InputError(f"{path}: {_difference(self._schema, schema, self.paths[0])}")
                counts = [groups.row_group(k).num_rows for k in range(groups.num_row_groups)]
            if any(count < 0 for count in counts):
                raise InputError(f"{path}: is damaged: a row group has {min(counts)} rows")
            self.units += [(i, k, count) for k, count in enumerate(counts) if count]

    def _read_schema(self, path: Path, schema: Any) -> None:
        import pyarrow as pa

        self._schema = schema
        found = [name for name in schema.names if name.lower() in LABELS]
        if len(set(schema.names)) < len(schema.names) or len(found) > 1:
            raise InputError(f"{path}: has two columns of one name, or two of labels: names must differ")
        self.label = found[0] if found else None
        if self.label is not None and not pa.types.is_integer(schema.field(self.label).type):
            kind = schema.field(self.label).type
            raise InputError(f"{path}: column {self.label!r} holds {kind}: labels must be whole numbers")
        fields = [field for field in schema if field.name not in {self.label, *_index(schema)}]
        lists = [field for field in fields if pa.types.is_fixed_size_list(field.type)]
        plain = [field for field in fields if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)]
        odd = [field for field in fields if field not in lists and field not in plain]
        if len(lists) > 1 or (lists and len(fields) > 1) or odd or not fields:
            named = ", ".join(f"{field.name!r} ({field.type})" for field in (odd or fields)[:3]) or "none"
            raise InputError(
                f"{path}: has columns {named}: there must be one of lists of a fixed size (pa.FixedSizeListArray), or "
                "numbers only, and perhaps 'label'"
            )
        self.listed = bool(lists)
        kinds = [lists[0].type.value_type] if lists else [field.type for field in fields]
        if lists and not (pa.types.is_integer(kinds[0]) or pa.types.is_floating(kinds[0])):
            raise InputError(f"{path}: column {lists[0].name!r} holds lists of {kinds[0]}: they must hold numbers")
        self.columns = [field.name for field in fields]
        width = lists[0].type.list_size if lists else len(fields)
        if width < 1:
            raise InputError(f"{path}: column {lists[0].name!r} holds lists of no entries")
        self.shape = (width,)
        self.dtype = np.dtype(np.uint8 if all(pa.types.is_uint8(kind) for kind in kinds) else np.float32)
        self.labelled = self.label is not None

    def _columns_of(self, schema: Any) -> dict[str, str]:
        names = [*self.columns, *([self.label] if self.label else [])]
        return {name: str(schema.field(name).type) if name in schema.names else "missing" for name in names}

    def read(self, unit: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Decode a row group: (rows, d) and the labels (rows,)."""
        file, group, rows = self.units[unit]
        columns = [*self.columns, *([self.label] if self.label else [])]
        try:
            with _opened(self.pq, self.paths[file]) as opened:
                table = opened.read_row_group(group, columns=columns)
        except InputError:
            raise
        except Exception as error:  # what a damaged file raises depends on where the damage is
            raise InputError(f"{self.place(unit)}: cannot be read: {first_line(error)}") from error
        if table.num_rows != rows:
            raise InputError(f"{self.place(unit)}: holds {table.num_rows} rows instead of {rows}")
        for name in columns:
            if table[name].null_count:
                row = int(np.argmax(table[name].is_null().to_numpy(zero_copy_only=False)))
                raise InputError(
                    f"{self.place(unit, row)}: column {name!r} is empty (null): write NaN, or leave it out"
                )
        y = table[self.label].to_numpy().astype(np.int64) if self.label else None
        return self._array(table, unit), y

    def _array(self, table: Any, unit: int) -> np.ndarray:
        # An overflow becomes inf, which the training's check reports with its place.
        with np.errstate(over="ignore"):
            if not self.listed:
                x = np.empty((table.num_rows, len(self.columns)), self.dtype)
                for j, name in enumerate(self.columns):
                    x[:, j] = table[name].to_numpy()
                return x
            values = table[self.columns[0]].combine_chunks()
            values = values.chunk(0) if hasattr(values, "num_chunks") else values
            flat = values.flatten()
            if flat.null_count:
                row = int(np.argmax(flat.is_null().to_numpy(zero_copy_only=False))) // self.shape[0]
                raise InputError(f"{self.place(unit, row)}: holds an empty entry (null): write NaN")
            return flat.to_numpy().astype(self.dtype, copy=False).reshape(table.num_rows, self.shape[0])

    def place(self, unit: int, row: int | None = None) -> str:
        """Say where a row of a unit lies."""
        file, group, _ = self.units[unit]
        return f"{self.paths[file]}, row group {group}{'' if row is None else f', row {row} of it'}"


def _index(schema: Any) -> list[str]:
    """Names of the columns that pandas writes its index to; what else its note may hold is passed by."""
    try:
        found = schema.pandas_metadata["index_columns"]
    except Exception:  # no note, or one that anybody may have written
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError('Parquet files need pyarrow: pip install "pyro-vaes[shards]"') from None
    return pq


def _opened(pq: Any, path: Path) -> Any:
    try:
        return pq.ParquetFile(path, memory_map=False, page_checksum_verification=True)
    except Exception as error:  # pyarrow's errors have no common ancestor
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from error


def _difference(first: Any, other: Any, name: Path) -> str:
    for field in first:
        if field.name not in other.names:
            return f"lacks the column {field.name!r}, which {name.name} has: all files must have the same columns"
        if str(field.type) != str(other.field(field.name).type):
            return f"column {field.name!r} holds {other.field(field.name).type}, but {field.type} in {name.name}"
    return f"has other columns than {name.name}"
