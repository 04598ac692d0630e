"""The webserver of `import-pipeline dev`: Dagster's own web application behind our guard, as a process of its own.

Started by `services` as `python -m import_pipeline.cli.dev.webserver`, in place of `python -m dagster_webserver`, and
told by its arguments nothing that others may not know: the key of the sessions lies in the folder of `sign_in`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import click
import dagster as dg
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext, WorkspaceRequestContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._utils.log import configure_loggers
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from import_pipeline.cli.dev.address import Address
from import_pipeline.cli.dev.guard import ROLE, Guard
from import_pipeline.cli.dev.http_connections import bounded
from import_pipeline.cli.dev.sign_in import OPERATOR, SignIn

# What Dagster's own command takes by default.
_STATEMENT_TIMEOUT_MS, _POOL_RECYCLE_SECONDS, _POOL_MAX_OVERFLOW, _POLL_MS = 15_000, 3600, 20, 2000


class Workspace(WorkspaceProcessContext):
    """Dagster's workspace, read-only for all but operators: what forgets to say who asks may change nothing."""

    def create_request_context(self, source: object | None = None) -> WorkspaceRequestContext:
        """Return what a request or websocket may use."""
        is_operator = isinstance(source, HTTPConnection) and source.scope.get(ROLE) == OPERATOR
        return WorkspaceRequestContext(
            instance=self.instance,
            current_workspace=self.get_current_workspace(),
            process_context=self,
            version=self.version,
            source=source,
            read_only=not is_operator,
        )


class Webserver(DagsterWebserver[Workspace, WorkspaceRequestContext]):
    """Dagster's web application, with GraphQL by POST only and no mutation at all for viewers."""

    async def graphql_http_endpoint(self, request: Request) -> Response:
        """Answer a query or mutation. GET is what any page can let a browser do, and a link can hold a mutation."""
        if request.method != "POST":
            return _refuse(405, "GraphQL is asked by POST.")
        answer: Response = await super().graphql_http_endpoint(request)
        return answer

    async def execute_graphql_request(
        self, request: Request, query: str, variables: dict[str, Any] | None, operation_name: str | None
    ) -> JSONResponse:
        """Execute it, unless a viewer would change something: some small mutations of Dagster ask for no permission."""
        if request.scope.get(ROLE) != OPERATOR and _has_mutation(query):
            return _refuse(403, "A read-only link changes nothing.")
        return await super().execute_graphql_request(request, query, variables, operation_name)


def make_application(workspace: Workspace, address: Address, sign_in: SignIn, everybody: str | None = None) -> ASGIApp:
    """Return Dagster's web application behind the guard."""
    app: Starlette = Webserver(workspace, "", _POLL_MS).create_asgi_app(lifespan=_lifespan)
    return Guard(app, address.origins, sign_in, f"import_pipeline_{address.port}", everybody)


@click.command()
@click.option("--host", required=True)
@click.option("--port", type=int, required=True)
@click.option("--workspace", "workspace_file", required=True)
@click.option("--sign-in", "folder", type=click.Path(path_type=Path), required=True)
@click.option("--everybody")
def main(host: str, port: int, workspace_file: str, folder: Path, everybody: str | None) -> None:
    """Serve until interrupted."""
    configure_loggers(log_level="ERROR")
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(_STATEMENT_TIMEOUT_MS, _POOL_RECYCLE_SECONDS, _POOL_MAX_OVERFLOW)
        target = WorkspaceFileTarget([workspace_file])
        with Workspace(instance, target, version=__version__, read_only=True) as workspace:
            app = make_application(workspace, Address.of(host, port), SignIn(folder), everybody)
            # Nothing that a client says of itself is believed: neither whom it stands for nor how it came.
            uvicorn.run(
                app,
                host=host,
                port=port,
                http=bounded(),
                backlog=100,  # so many connections may come at once
                log_level="warning",
                proxy_headers=False,
                server_header=False,
            )


@asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    with suppress(asyncio.CancelledError):  # of uvicorn, when it is interrupted
        yield


def _has_mutation(query: object) -> bool:
    try:
        definitions = parse(query if isinstance(query, str) else "").definitions
    except GraphQLError:
        return False  # it is no query either, and Dagster's answer says what is wrong
    return any(
        isinstance(each, OperationDefinitionNode) and each.operation is OperationType.MUTATION for each in definitions
    )


def _refuse(status: int, message: str) -> JSONResponse:
    return JSONResponse({"errors": [{"message": message}]}, status)


if __name__ == "__main__":
    main()
