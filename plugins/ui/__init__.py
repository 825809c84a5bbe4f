"""The pages about a migration inside Airflow's web interface; every route asks Airflow who may see it."""
