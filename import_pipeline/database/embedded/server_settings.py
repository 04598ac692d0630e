"""What the embedded server is started with."""

SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "cluster_name": "import_pipeline",
    "max_logical_replication_workers": "0",
    "enable_parallel_hash": "off",  # it shares much memory, of which a container has 64 MB by default
    # The log must never hold a piece of a transcript. The message of an error may quote a value, its details a row, the
    # report of a crash a statement: errors are for the client alone (`log` stands above `error`), the rest is logged
    # tersely.
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_autovacuum_min_duration": "-1",
    "log_checkpoints": "off",
    "log_lock_waits": "off",
}
