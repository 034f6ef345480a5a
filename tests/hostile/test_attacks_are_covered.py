"""Every attack on registry clients that is known has a test that does it: this is where it is."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

ATTACKS: dict[str, tuple[str, ...]] = {
    "CVE-2020-15157: foreign layer urls receive credentials": (
        "auth/test_attacks.py::test_foreign_urls_of_a_layer_are_never_fetched",
        "pull/test_artifact.py::test_a_foreign_layer_is_skipped_and_never_fetched_from_elsewhere",
    ),
    "GHSA-vh4v-2xq2-g5cg, CVE-2026-50151: a proof follows a redirect or an upload's Location elsewhere": (
        "auth/test_attacks.py::test_a_redirect_elsewhere_takes_nothing_along",
        "auth/test_attacks.py::test_every_redirect_is_followed_bare",
        "auth/test_attacks.py::test_https_doesnt_go_on_as_http",
        "auth/test_attacks.py::test_what_comes_back_is_given_a_proof_again_and_nobody_else_sees_it",
        "auth/test_attacks.py::test_an_upload_elsewhere_takes_no_proof_along",
        "auth/test_attacks.py::test_an_upload_that_is_redirected_takes_no_proof_along",
        "auth/test_attacks.py::test_an_upload_at_no_url_goes_nowhere",
        "registry/test_upload.py::TestChunks::test_a_location_that_isnt_safe_gets_nothing",
    ),
    "CVE-2026-48978, GHSA-28r5-37g7-p6mp: the realm is a metadata service, or plain http": (
        "auth/test_attacks.py::test_a_token_server_that_isnt_to_be_talked_to_isnt",
        "auth/test_attacks.py::test_a_token_server_that_redirects_takes_nothing_along",
        "auth/test_realm.py::test_refused",
        "auth/test_tokens.py::test_a_redirect_is_judged_like_a_realm",
        "auth/test_ring.py::test_a_remembered_realm_is_judged_again",
    ),
    "ggcr #2359: a redirect target's challenge harvests a token": (
        "auth/test_attacks.py::test_a_redirect_targets_challenge_harvests_nothing",
        "auth/test_attacks.py::test_a_challenge_elsewhere_gets_a_token_that_anybody_gets",
        "auth/test_ring.py::test_another_origin_is_answered_anonymously_for_one_request",
    ),
    "a Link leads to another host": (
        "auth/test_attacks.py::test_the_next_page_elsewhere_is_never_asked_for",
        "registry/test_repository.py::TestTags::test_another_origin_is_never_asked",
        "registry/test_repository.py::TestTags::test_a_circle_of_pages_ends",
        "registry/test_links.py::test_another_origin_is_refused",
    ),
    "CVE-2025-24882: a header overrides the pinned digest": (
        "registry/test_repository.py::TestManifest::test_the_bytes_decide_what_is_pinned_and_no_header",
        "registry/test_repository.py::TestManifest::test_a_header_never_excuses_the_wrong_bytes",
        "pull/test_pull_agent.py::test_a_manifest_that_isnt_the_pinned_one_is_refused",
    ),
    "CVE-2024-3727, CVE-2024-37032: a digest becomes a path or a URL": (
        "oci/test_digest.py::test_anything_else_is_refused_at_once",
        "oci/test_manifest.py::test_anything_else_is_refused_at_once",
        "store/test_layout.py::test_a_hostile_layout",
        "pull/test_lockfile.py::test_what_isnt_one",
    ),
    "CVE-2021-41190: a manifest is taken for an index": (
        "oci/test_manifest.py::test_header_media_type_and_shape_agree",
        "oci/test_manifest.py::test_vectors_of_confusion",
        "oci/test_strict_json.py::test_anything_else_is_refused_at_once",
        "push/test_copy.py::TestRefusals::test_what_is_served_as_something_else_is_refused",
    ),
    "CVE-2021-41092: a missing helper sends credentials to Docker Hub": (
        "registries/test_broken_credentials.py::test_a_helper_that_is_not_there",
        "registries/test_broken_credentials.py::test_a_failure_is_of_one_registry",
        "auth/test_helpers.py::test_a_helper_that_is_not_installed",
    ),
    "CVE-2024-35192: a look-alike host triggers a helper": (
        "auth/test_attacks.py::test_a_look_alike_runs_no_helper_and_gets_no_login",
        "auth/test_credentials.py::test_a_key_that_is_for_somebody_else",
        "auth/test_helpers.py::test_a_helper_of_one_host_is_not_run_for_another",
    ),
    "a helper's name is a path or a command": (
        "auth/test_helpers.py::test_a_name_that_is_none_is_not_run",
        "auth/test_helpers.py::test_a_host_that_is_none_is_not_asked_for",
        "auth/test_helpers.py::test_a_relative_path_runs_nothing",
        "auth/test_helpers.py::test_a_helper_that_hangs_is_ended_with_its_children",
        "auth/test_helpers.py::test_a_helper_that_prints_without_end",
        "auth/test_helpers.py::test_a_broken_helper_is_an_error_that_tells_nothing",
    ),
    "CVE-2026-50163, GHSA-8xwf-rjm4-xvhv, oras-py #46: a title, a tar member or a link escapes the directory": (
        "hostile/test_attacks.py::test_no_name_in_an_artifact_becomes_a_path",
        "store/test_layout.py::test_no_member_becomes_a_path",
        "store/test_layout.py::test_links_arent_followed",
        "store/test_layout.py::test_nothing_is_written_through_a_link",
        "http/test_hosts.py::test_no_name_leads_out_of_a_root",
    ),
    "CVE-2023-25153, CVE-2017-11468: a huge manifest, a huge size, a response without an end": (
        "hostile/test_attacks.py::test_an_answer_without_an_end_is_cut_off",
        "hostile/test_attacks.py::test_a_blob_without_an_end_is_cut_off_at_its_size",
        "http/test_session.py::TestWhatComesBack::test_a_body_above_the_limit_is_refused_before_its_end",
        "http/test_session.py::TestWhatComesBack::test_an_encoded_body_is_refused",
        "agents/test_artifact.py::TestUnpack::test_a_bomb_is_defused_in_bounded_memory",
        "pull/test_artifact.py::test_a_manifest_that_claims_to_be_huge",
        "store/test_contract.py::test_a_blob_that_is_too_long_is_refused_at_the_first_byte_too_many",
    ),
    "cleanroom #495: a global cache serves another repository's private blob": (
        "pull/test_pull_agent.py::test_one_repositorys_content_isnt_a_hit_in_another",
        "pull/test_artifact.py::test_a_blob_of_another_repository_is_no_proof",
        "store/test_contract.py::test_content_is_absent_where_it_was_not_seen",
    ),
    "mirror poisoning: one mirror's tag answer is used for another registry": (
        "pull/test_reach.py::TestHostsToml::test_a_mirrors_tag_answer_is_no_answer_without_resolve",
        "pull/test_reach.py::TestHostsToml::test_bytes_of_a_mirror_are_verified_and_wrong_ones_no_reason_to_fail",
        "pull/test_pull_agent.py::test_two_registries_never_answer_for_each_other",
        "auth/test_attacks.py::test_a_mirror_never_gets_the_registrys_credentials",
        "auth/test_attacks.py::test_a_mirror_that_redirects_to_the_registry_doesnt_speak_for_it",
    ),
    "CVE-2014-5277: https silently goes on as http": (
        "hostile/test_attacks.py::test_https_that_fails_never_goes_on_as_plain_http",
        "http/test_redirect.py::test_a_downgrade_to_http_is_refused",
        "http/test_hosts.py::test_plain_http_to_another_machine_is_never_inferred",
        "pull/test_fallback.py::test_a_certificate_that_isnt_trusted_is_never_papered_over",
    ),
    "CVE-2025-68146: a symlinked lock truncates a file": (
        "store/test_local.py::test_a_planted_lock_is_not_followed",
        "store/test_local.py::test_what_is_in_a_lock_file_stays",
        "store/test_local.py::test_nothing_is_private_to_others_whatever_the_umask_says",
    ),
    "CVE-2021-45449: tokens in logs": (
        "test_planted.py::test_there_are_twenty_secrets_in_twenty_places",
        "test_planted.py::test_a_secret_is_used_and_never_shown",
        "auth/test_loopback.py::test_nothing_that_is_shown_holds_a_secret",
        "test_redact.py::test_a_planted_secret_is_never_shown",
    ),
    "terminal escapes in annotations and messages": (
        "cli/test_shelf.py::test_what_inspect_shows_cant_drive_the_terminal",
        "registry/test_repository.py::TestRefusals::test_what_a_registry_says_cant_drive_a_terminal",
        "registry/test_repository.py::TestWarnings::test_a_warning_cant_drive_a_terminal",
        "test_redact.py::test_control_characters_are_escaped",
    ),
    "a planted store: a symlink at a blob's place": (
        "store/test_damage.py::test_a_damaged_blob_is_found_and_repaired",
        "store/test_damage.py::test_a_damaged_index",
        "pull/test_repair.py::test_a_damaged_blob_is_found_before_it_is_served",
    ),
    "YAML that explodes": (
        "agents/test_document.py::test_an_alias_counts_as_all_that_it_stands_for",
        "agents/test_document.py::test_what_is_refused_takes_no_memory",
        "agents/test_document.py::test_anything_else_is_refused_at_once",
        "hostile/test_parsers.py::test_much_of_one_thing_is_no_work",
    ),
    "JSON: NaN, duplicate keys, depth, long numbers, other digits": (
        "oci/test_strict_json.py::test_anything_else_is_refused_at_once",
        "hostile/test_parsers.py::test_what_is_nearly_right_is_read_or_refused",
        "hostile/test_parsers.py::test_much_of_one_thing_is_no_work",
    ),
    "TOML: a key of very many parts": ("hostile/test_parsers.py::test_a_key_of_very_many_parts_is_refused",),
}


@cache
def named_in(file: str) -> frozenset[str]:
    """The names of the tests in a file, those of classes after the class."""
    module = ast.parse((TESTS / file).read_text("utf-8"))
    found = set[str]()
    for node in module.body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        functions = (one for one in inner if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))
        found |= {prefix + one.name for one in functions if one.name.startswith("test_")}
    return frozenset(found)


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_has_its_tests(attack: str) -> None:
    assert ATTACKS[attack]
    for test in ATTACKS[attack]:
        file, _, name = test.partition("::")
        assert name in named_in(file), test
