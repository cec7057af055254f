#!/bin/sh
# `airflow …`; or a whole command line, as Airflow's Helm chart, its probes and the KubernetesExecutor give it.
case "${1:-}" in
    airflow | bash | python | sh | wat2mds) exec "$@" ;;
esac
exec airflow "$@"
