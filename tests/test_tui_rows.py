"""Goal: a table of any length shows whole rows, keeps its cursor, and gives way column by column."""

from __future__ import annotations

import asyncio

from textual.app import App, ComposeResult

from tests.tui_canned import screen
from tui.rows import Column, Rows

COLUMNS: tuple[Column[str], ...] = (
    Column("name", 6, 0, lambda row: (row, ""), grows=True),
    Column("end", 3, 0, lambda row: ("END", ""), right=True),
)


class Table(App[None]):
    def compose(self) -> ComposeResult:
        yield Rows(COLUMNS, key=lambda row: row)


def test_the_last_column_is_not_below_the_scrollbar() -> None:
    """Goal: with more rows than lines every row is seen to its end."""

    async def run() -> None:
        app = Table()
        async with app.run_test(size=(40, 10)) as pilot:
            rows = app.query_one(Rows)
            rows.show([f"row-{number}" for number in range(300)])
            await pilot.pause()
            lines = screen(app).splitlines()  # type: ignore[arg-type]
            assert all("END" in line for line in lines[1:]), lines

    asyncio.run(run())
