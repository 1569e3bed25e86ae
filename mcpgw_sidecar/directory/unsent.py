"""What the session store has not been told, because it did not answer: it is told once it is back.

A process that ends before that takes it along. The oldest sessions make room for new ones.
"""

from __future__ import annotations

import attrs

from mcpgw_sidecar.model.sessions import Session
from mcpgw_sidecar.sessions.rows import MAX_SESSIONS


@attrs.define
class Untold:
    """Of one session: fields of its row with their values, None for one to remove; or its end."""

    session: Session
    fields: dict[str, str | None] = attrs.field(factory=dict)
    ended: bool = False


@attrs.define
class Unsent:
    """All that is untold, by session."""

    _rows: dict[str, Untold] = attrs.field(factory=dict)

    def __bool__(self) -> bool:
        return bool(self._rows)

    def keep(self, session: Session, field: str, value: str | None) -> Untold:
        """Keep a field until it is stored, unless the session has ended."""
        row = self._row(session)
        if not row.ended:
            row.fields[field] = value
        return row

    def end(self, session: Session) -> None:
        """Keep the end of a session, for which nothing else matters any more."""
        row = self._row(session)
        row.ended = True
        row.fields.clear()

    def told(self, session: Session, field: str, value: str | None) -> None:
        """Forget a field, which has been stored with this value."""
        row = self._rows.get(session.key)
        if row is not None:
            if row.fields.get(field, "") == value:
                del row.fields[field]
            if not row.fields and not row.ended:
                del self._rows[session.key]

    def ended(self, key: str) -> None:
        """Forget the fields of a session that has ended; its own end may still have to be told."""
        row = self._rows.get(key)
        if row is not None and not row.ended:
            del self._rows[key]

    def forget(self, key: str) -> None:
        """Forget all that is untold of a session."""
        self._rows.pop(key, None)

    def fields(self, key: str) -> dict[str, str | None]:
        """The fields of a session's row that are untold, with None for one to remove."""
        row = self._rows.get(key)
        return {} if row is None else row.fields

    def rows(self) -> list[Untold]:
        """All that is untold, the oldest first."""
        return list(self._rows.values())

    def _row(self, session: Session) -> Untold:
        row = self._rows.get(session.key)
        if row is None:
            if len(self._rows) >= MAX_SESSIONS:
                del self._rows[next(iter(self._rows))]
            row = self._rows[session.key] = Untold(session)
        return row
