"""Every fault that lading says it survives has a test that brings it about: this is where it is."""

from __future__ import annotations

import pytest
from hostile.test_attacks_are_covered import named_in

FAULTS: dict[str, tuple[str, ...]] = {
    "a reset, a short body, a chunk that is missing, a body that ends with its connection": (
        "pull/test_download.py::test_a_cut_at_every_64th_costs_one_buffer_at_most",
        "pull/test_download.py::test_resets_all_the_time_use_up_no_attempts",
        "pull/test_download.py::test_a_last_chunk_that_is_missing_is_no_loss",
        "faults/test_large_under_faults.py::test_many_cuts_cost_little",
        "faults/test_lading_under_faults.py::test_much_chaos",
    ),
    "a Content-Length that is wrong": (
        "faults/test_lading_under_faults.py::test_a_cold_pull_when_the_blob_goes_wrong",
        "pull/test_download.py::test_who_announces_too_much_is_believed_that_its_wrong",
        "pull/test_download.py::test_a_length_that_is_short_is_gone_on_after",
    ),
    "silence, and a body that drips": (
        "faults/test_lading_under_faults.py::test_a_registry_that_falls_silent",
        "http/test_session.py::TestTimeouts::test_silence_in_the_body",
        "http/test_session.py::TestTimeouts::test_a_body_that_drips",
    ),
    "408, 429, 5xx, and any Retry-After": (
        "http/test_retry.py::test_what_is_repeated",
        "http/test_retry.py::test_retry_after",
        "http/test_retry.py::test_a_pause_longer_than_the_operation_is_an_error_at_once",
        "http/test_limits.py::TestRetryAfter::test_garbage_is_none",
        "faults/test_lading_under_faults.py::test_a_registry_that_asks_for_nonsense",
    ),
    "a token that ends in the middle": (
        "pull/test_download.py::test_a_token_that_expires_on_the_way_costs_one_more",
        "auth/test_loopback.py::test_fifty_expired_tokens_are_one_token_request",
        "auth/test_ring.py::test_a_registry_that_accepts_nothing_is_left_alone",
    ),
    "a scope that isn't granted": ("registry/test_repository.py::TestRefusals::test_a_denial_names_what_was_needed",),
    "a redirect in a circle, to http, to a URL that has expired": (
        "http/test_redirect.py::test_a_loop_ends",
        "http/test_redirect.py::test_a_downgrade_to_http_is_refused",
        "pull/test_download.py::test_a_signed_url_is_asked_for_again",
    ),
    "a range that is ignored, wrong, of other bytes, or refused": (
        "pull/test_download.py::test_scenario",
        "pull/test_download.py::test_whatever_comes_for_the_rest_one_restart_mends_it",
        "faults/test_large_under_faults.py::test_much_chaos",
    ),
    "a partial download that is damaged": (
        "pull/test_download.py::test_a_damaged_partial_costs_one_clean_restart",
        "store/test_partials.py::test_a_damaged_partial_fails_once",
    ),
    "no space": (
        "store/test_full_disk.py::test_a_blob_that_does_not_fit",
        "store/test_full_disk.py::test_a_store_on_a_full_disk_is_read_and_goes_on_when_there_is_space",
        "store/test_full_disk.py::test_a_damaged_index_is_repaired_whole_or_not_at_all",
        "store/test_every_call.py::test_at_every_call",
        "pull/test_download.py::test_a_full_disk_isnt_the_mirrors_fault",
    ),
    "no permission, a disk that is read-only": (
        "store/test_local.py::test_a_read_only_store_serves_and_says_that_it_can_not_be_written",
        "store/test_local.py::test_a_store_of_another_user",
        "store/test_full_disk.py::test_every_refusal_is_told_and_undone",
        "store/test_every_call.py::test_at_every_call",
    ),
    "kill -9": (
        "store/test_kill.py::test_a_process_that_is_killed_loses_nothing_that_it_committed",
        "store/test_gc.py::test_a_collection_that_is_killed_breaks_nothing_and_the_next_one_ends_it",
        "store/test_every_call.py::test_at_every_call",
        "faults/test_many_processes.py::test_killed_at_any_moment",
        "faults/test_large_under_faults.py::test_killed_at_random_places_little_is_fetched_twice",
    ),
    "a power cut": (
        "store/test_power_cut.py::test_a_power_cut_loses_nothing_that_was_committed",
        "store/test_power_cut.py::test_without_syncing_a_power_cut_is_noticed",
    ),
    "many processes, one reference": (
        "faults/test_many_processes.py::test_many_processes_share_a_store",
        "faults/test_large_under_faults.py::test_eight_processes_fetch_each_blob_once",
        "store/test_partials.py::test_a_holder_that_is_killed_is_taken_over",
        "store/test_gc_races.py::test_collections_beside_pulls",
    ),
    "locks that do nothing, a network file system": (
        "faults/test_many_processes.py::test_many_processes_share_a_store",
        "store/test_partials.py::test_processes_are_killed_where_locks_do_nothing",
        "store/test_gc.py::test_where_locks_do_nothing_a_blob_that_is_lost_is_missed",
        "store/test_local.py::test_a_network_file_system_is_refused",
    ),
    "a clock that is wrong": (
        "store/test_contract.py::test_a_clock_that_was_set_back_makes_nothing_old",
        "auth/test_ring.py::test_a_token_is_renewed_before_it_ends",
        "http/test_limits.py::TestRetryAfter::test_whose_clock_is_broken_is_told_by_ours",
    ),
    "a blob that is cut or flipped, an index that is garbage": (
        "store/test_damage.py::test_a_damaged_blob_is_found_and_repaired",
        "store/test_damage.py::test_a_flipped_bit_is_never_served",
        "store/test_damage.py::test_a_truncated_index_is_never_wrong",
        "pull/test_repair.py::test_a_damaged_directory_is_cold_and_heals",
        "store/test_local.py::test_a_newer_format_is_refused_and_left_alone",
    ),
    "a link in the place of a file": (
        "store/test_links.py::test_a_link_anywhere_is_not_followed",
        "store/test_gc.py::test_a_planted_link_is_removed_and_not_followed",
    ),
    "a cancellation anywhere": (
        "test_cancelled_everywhere.py::test_interrupted_at_every_moment",
        "auth/test_ring.py::test_cancelled_at_every_await_nothing_stays_open_or_locked",
    ),
    "an event loop that ends, a process that forks": (
        "test_cancelled_everywhere.py::test_event_loops_that_end_in_the_middle",
        "test_cancelled_everywhere.py::test_a_child_of_the_middle_of_a_pull_uses_no_connection_of_its_parent",
        "test_cancelled_everywhere.py::test_a_child_of_the_middle_of_a_transaction_can_write",
    ),
    "too many open files": (
        "store/test_local.py::test_too_many_open_files_is_not_damage",
        "http/test_proxied.py::TestTheSocketWorksBut::test_this_process_has_no_descriptors_left",
    ),
    "a proxy's socket that dies": (
        "http/test_proxied.py::TestADeadSocket::test_is_left_alone_for_30_seconds_and_then_used_again",
        "http/test_proxied.py::TestADeadSocket::test_and_a_target_that_is_down_is_the_targets_failure",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_has_its_tests(fault: str) -> None:
    for test in FAULTS[fault]:
        file, _, name = test.partition("::")
        assert name in named_in(file), test
