"""Celery's settings for Fleet: each line with its unit and its reason."""

from fleet.settings import settings_or_exit
from fleet.settings.tls import valkey_tls as _valkey_tls
from fleet.valkey.transport import BROKER_TRANSPORT_OPTIONS as _transport_options  # Celery takes its name for a setting

_settings = settings_or_exit()
_valkey_url = _settings.valkey_url.get_secret_value()

broker_url = _valkey_url
broker_use_ssl = redis_backend_use_ssl = dict(_valkey_tls(_settings)) or None  # Flower reads the first, too
broker_transport_options = _transport_options
broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # for ever: by default a worker gives up after 100 tries
broker_pool_acquire_timeout = 10  # s; by default a publisher waits for ever for a connection

result_backend = f"fleet.valkey.backend:Backend+{_valkey_url}"
result_expires = 3600  # s; what Fleet keeps is in its own store, results only carry references
result_backend_always_retry = True  # a part that ends while ValKey restarts is counted when it is back

include = ["fleet.tasks.agent", "fleet.tasks.council"]
task_default_queue = "council"
task_acks_late = True  # a message is done when its task is, not when it was read
task_reject_on_worker_lost = True
task_acks_on_failure_or_timeout = True  # a task that raises is retried by the watchdog, not by the broker in a loop
worker_prefetch_multiplier = 1
worker_deduplicate_successful_tasks = False  # hangs a chord when a worker dies
worker_cancel_long_running_tasks_on_connection_loss = False  # their effects are idempotent: let them end
task_serializer = result_serializer = "json"
accept_content = ["json"]
worker_consumer = "fleet.tasks.messages:Consumer"  # a message that is no task of ours becomes a dead letter
worker_proc_alive_timeout = 600  # s; a local model takes its time to load
worker_hijack_root_logger = False  # fleet.telemetry does the logging
task_track_started = False
