"""The stages: one module or folder each. A stage may import the core and its own libraries; never another stage, never Airflow."""
