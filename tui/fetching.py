"""Downloads of the object browser: one at a time, to where the user says, over nothing the user did not agree to."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from peer.errors import AtollError
from tui.clean import clean, clean_name
from tui.dialog import Ask, Confirm
from tui.saving import Transfer, file_name, target_of, target_problem

if TYPE_CHECKING:
    from textual.worker import Worker

    from peer.client import AsyncClient, ObjectInfo
    from tui.objects import Objects


class Fetching:
    """`page` is told by `redraw` when one begins or ends."""

    def __init__(self, page: Objects) -> None:
        self._page = page
        self._transfer: Transfer | None = None
        self._worker: Worker[None] | None = None

    @property
    def under_way(self) -> bool:
        return self._transfer is not None

    def words(self, now_s: float) -> str:
        """How far it is, "" while there is none."""
        return "" if self._transfer is None else f"x cancels {self._transfer.words(now_s)}"

    def begin(self, client: AsyncClient, info: ObjectInfo) -> None:
        if self.under_way:
            self._page.top.say("one download is under way; x cancels it", "warning")
            return
        self._worker = self._page.run_worker(
            self._fetch(client, info), group="download", exclusive=True, exit_on_error=False
        )

    def cancel(self) -> None:
        if self.under_way and self._worker is not None:
            self._worker.cancel()

    async def _fetch(self, client: AsyncClient, info: ObjectInfo) -> None:
        """Ask where to, fetch, and say what came of it. Cancelled or failed it leaves nothing behind."""
        chosen = await self._where(info)
        if chosen is None:
            return
        target, overwrite = chosen
        page = self._page
        name = f"{info.bucket}/{clean_name(info.key, unicode=page.unicode)}"
        transfer = self._transfer = Transfer(name, target, page.top.clock(), info.size)
        page.redraw()
        try:
            async with await client.get(
                info.bucket, info.key, progress=transfer.count, size_hint=info.size
            ) as download:
                transfer.size = download.length
                await download.save(target, overwrite=overwrite)
        except asyncio.CancelledError:
            page.top.say(f"download of {name} cancelled; nothing was written", "warning")
            raise
        except FileExistsError:
            page.top.say(f"{target} has come to be meanwhile; nothing was overwritten", "error")
        except (AtollError, OSError) as error:
            page.top.say(str(error), "error")
        else:
            page.top.say(f"downloaded {name} to {target}", "good")
        finally:
            self._transfer = None
            if page.is_attached:
                page.redraw()

    async def _where(self, info: ObjectInfo) -> tuple[Path, bool] | None:
        """The file, and whether what is there may go; None if the user changed their mind."""
        page = self._page
        ask = Ask(
            "Download",
            [
                _bold(f"{info.bucket}/{clean_name(info.key, unicode=page.unicode)}"),
                "To which file or directory?",
            ],
            str(Path.cwd() / file_name(info.key)),
            check=lambda typed: target_problem(typed, info.key),
            yes="Download",
        )
        typed = await page.app.push_screen_wait(ask)
        if typed is None:
            return None
        target = target_of(typed, info.key)
        if not os.path.lexists(target):
            return target, False
        lines: list[str | Text] = [
            _bold(clean(str(target), unicode=page.unicode)),
            "It is there already, and would be gone.",
        ]
        sure = await page.app.push_screen_wait(Confirm("Overwrite this file?", lines, yes="Overwrite it"))
        return (target, True) if sure else None


def _bold(words: str) -> Text:
    return Text(words, style="bold", overflow="fold")
