"""Who may see and change what: Airflow's own session and permissions, asked for by every route.

An app of a plugin is open to everybody unless its routes depend on one of these. The path of a route names the DAG
as ``{dag_id}``, for that is where Airflow's check looks; reading needs GET on it, health data and changes need PUT.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.configuration import conf
from fastapi import Depends, HTTPException, Request, status

MIGRATING = ("mdw_full_migration", "mdw_incremental_migration", "mdw_validation")
"""DAGs whose runs the target keeps; there are no pages about any other."""


def reader(dag_id: str, user: GetUserDep, _: None = Depends(requires_access_dag("GET"))) -> BaseUser:
    """A user who may read the DAG; 401, 403, and 404 for a DAG that is none of ours."""
    return _of_ours(dag_id, user)


def editor(
    dag_id: str, request: Request, user: GetUserDep, _: None = Depends(requires_access_dag("PUT"))
) -> BaseUser:
    """A user who may edit the DAG, in a request that one of our own pages sent."""
    _refuse_other_sites(request)
    return _of_ours(dag_id, user)


ReadUser = Annotated[BaseUser, Depends(reader)]
EditUser = Annotated[BaseUser, Depends(editor)]
READS = [Depends(reader)]
"""The dependencies of a route that does not ask who it is that reads."""
AnyUser = GetUserDep
"""Whoever is signed in: for what holds no data."""


def may_edit(request: Request, user: BaseUser) -> bool:
    """Whether the user of a reading route could edit the DAG, so that a page offers only what will be let through."""
    try:
        requires_access_dag("PUT")(request, user)
    except HTTPException as refused:
        if refused.status_code != status.HTTP_403_FORBIDDEN:
            raise
        return False
    return True


def name_of(user: BaseUser) -> str:
    """What the audit trail calls a user."""
    return user.get_name()


def _of_ours(dag_id: str, user: BaseUser) -> BaseUser:
    if dag_id not in MIGRATING:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "This DAG migrates nothing.")
    return user


def _refuse_other_sites(request: Request) -> None:
    """Against pages of others that use the cookie of a signed-in user: 403.

    Browsers say where a request comes from, by ``Sec-Fetch-Site`` or by ``Origin``. A token in ``Authorization`` was
    put there by the client itself.
    """
    headers = request.headers
    if "authorization" in headers:
        return
    site = headers.get("sec-fetch-site")
    origin = headers.get("origin")
    if site == "same-origin" if site is not None else origin is not None and _is_ours(origin, request):
        return
    raise HTTPException(status.HTTP_403_FORBIDDEN, "The request does not come from a page of this site.")


def _is_ours(origin: str, request: Request) -> bool:
    """Whether an origin is where the request went to, or where Airflow says that it is served."""
    served = urlsplit(conf.get("api", "base_url", fallback=""))
    return origin == f"{served.scheme}://{served.netloc}" or urlsplit(origin).netloc == request.headers.get(
        "host"
    )
