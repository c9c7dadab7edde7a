"""Every setting of Fleet: from its `FLEET_…` variable, else from the YAML file that FLEET_CONFIG names, else a default.

The original's variables are aliases, and an empty variable counts as not set. `get_settings` is what a process uses:
it refuses what is misspelt, said twice or contradictory, before anything connects.
"""

from fleet.settings.loading import OTHER_VARIABLES, file_settings, get_settings, load, refuse, settings_or_exit
from fleet.settings.sources import CONFIG, ORIGINALS, WrongSettings, config_file, origin, variables
from fleet.settings.tree import Settings
from fleet.settings.values import Behaviour, Profile

__all__ = [
    "CONFIG",
    "ORIGINALS",
    "OTHER_VARIABLES",
    "Behaviour",
    "Profile",
    "Settings",
    "WrongSettings",
    "config_file",
    "file_settings",
    "get_settings",
    "load",
    "origin",
    "refuse",
    "settings_or_exit",
    "variables",
]
