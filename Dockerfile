# Airflow with the migration, the same locked packages as the tests run with, and Celery.
FROM python:3.11.14-slim-bookworm AS packages
RUN pip install --no-cache-dir uv==0.13.9 && python -m venv /opt/venv
ENV UV_LINK_MODE=copy UV_NO_CACHE=1
COPY requirements-docker.lock ./
RUN uv pip sync --python /opt/venv/bin/python --require-hashes --compile-bytecode requirements-docker.lock
COPY providers/mdw_supabase ./mdw_supabase
RUN uv pip install --python /opt/venv/bin/python --no-deps --compile-bytecode ./mdw_supabase

FROM python:3.11.14-slim-bookworm
# What the volumes are mounted on belongs to the user, and so do they when they are new. Rows pass through staging.
RUN useradd --uid 50000 --create-home airflow \
    && install --directory --owner airflow --mode 0700 /var/lib/airflow /var/lib/airflow/logs \
        /var/lib/airflow/login /var/lib/migration
COPY --from=packages /opt/venv /opt/venv
WORKDIR /opt/migration
COPY include ./include
COPY plugins ./plugins
COPY dags ./dags
RUN chmod -R a+rX . && /opt/venv/bin/python -m compileall -q .
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/migration \
    AIRFLOW_HOME=/var/lib/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/migration/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/migration/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False
USER airflow
ENTRYPOINT ["airflow"]
