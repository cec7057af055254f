"""Running Airflow: the embedded one's processes, and a client of its REST API. Airflow itself is not imported."""
