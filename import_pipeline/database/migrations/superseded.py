"""The files of before 2026-12-01, which were put together into those of today: what a database has that ran them.

Nothing had been released by then, so the software takes over from one state alone: that which the last of them left. It
is the same as the files of today leave up to `LAST_ADOPTED`, so these count as applied there, and the later ones run.
"""

from __future__ import annotations

from collections.abc import Mapping

from import_pipeline.database.migrations.objects import Drift

LAST_ADOPTED = "20261201000011"
LAST_FILE = "20261130000031_remember_shared_folders.sql"

# Each with the beginnings of the checksums under which it is known: of its text and of what the Supabase CLI keeps of
# it, and the same of an earlier text whose effect later files made the same.
_FILES = """
20261101000001_prepare_database cba9440652ab b273f48acf44 1411c16b04c4 2fec71bf5fc5
20261101000002_create_roles f99a86bf68fa 73ac530720d5
20261101000003_create_auth 496e34aa698c 87192e8cd79c
20261101000004_create_call_library 4ff7d0d1b221 2da9a2b7a96a
20261101000005_create_import_key 0b152d687816 81fe64b1d3b2 dddd429bdfbe 296b44c6cbb5
20261101000006_create_import_sources f814ab371425 f05e5c9e93df
20261101000007_create_import_items 5b89feac3060 c7a132414fd2
20261101000008_create_private_tables 3af5fcaae952 465de677408d
20261101000009_create_functions 2be4c0d21a2c 7e426427f233 d2979ae0ac2e 2f6919cda776
20261101000010_grant_import_worker 3c93a4e7fabf 63a6560cac77 7d1681f922fb 725e1650c9cd
20261122000001_share_rate_budgets ef129f4d758b 74cc760dc2f1
20261123000001_schedule_accounts 096d0741f233 7f4af56690f7
20261123000002_give_way 88d043065826 d0b3ea76e9dd
20261123000003_describe_accounts b7ac14459e29 6d2877b4e119
20261123000004_remember_dropped_files 0aa260169557 d432f995f269
20261123000005_tell_failures_apart 47a69596071e ab4fa5321845
20261123000006_close_gaps 842ba6abf181 f2aea62b3992 3071a15b247a 4c08e63ee40c
20261123000007_leave_recordings_behind cfd5643be972 8ad01eb3a624
20261123000010_count_from_answers_sooner 6629890aebdc 74f8354af754
20261130000001_check_owners db0dae203f7e 97fc03dc3c87
20261130000002_guard_vaults 7b150ff1e329 5334b3604c5a
20261130000003_bound_times 1bf49ef9f830 aab508fdf6ac
20261130000004_fence_accounts 9d8079c71059 4acd84e7d338
20261130000005_create_import_login 239527a4e15c 811ea8068d58
20261130000011_tell_copies_from_imports 2e3ca88587e9 fca975099e81
20261130000021_compare_addresses_in_ascii 734a056ff6ba c2adec962ed9
20261130000031_remember_shared_folders 818ba0e1503c 682821a7692f
"""
FILES = {words[0][:14]: words for words in (line.split() for line in _FILES.split("\n") if line)}
"""By version: the name of the file, and its checksums."""


def compare(checksums: Mapping[str, str]) -> list[Drift]:
    """Return how a history of these files differs from that which this software takes over from.

    Args:
        checksums: Of the files in the history, by version.
    """
    drifted = []
    for version, (name, *accepted) in FILES.items():
        if version not in checksums:
            drifted.append(Drift("older", f"{name}.sql", "was never applied."))
        elif checksums[version][:12] not in accepted:
            drifted.append(Drift("edited", f"{name}.sql", "was applied with another text."))
    drifted += [Drift("unknown", version, "is not known here.") for version in checksums if version not in FILES]
    return drifted
