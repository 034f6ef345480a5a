"""What each field of a document is, as docker-agent's schema has them, versions 0 to 15. The others are unknown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from lading.agents.changes import Change, Place, Rule
from lading.agents.definition import Tree
from lading.agents.forms import after_edits, commands, each, hooks, safety, skills
from lading.agents.kinds import (
    address,
    blocks,
    ceiling,
    confines,
    confines_by_default,
    enables,
    environment,
    grants,
    hidden,
    instruction,
    models,
    nested,
    only,
    rows,
    target,
    text,
    worded,
)
from lading.agents.tools import as_mapping

_NEARBY = re.compile(r"(?!.*\.\.)[A-Za-z0-9_.-][A-Za-z0-9_./-]*")


def _kept_in(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """Where a toolset keeps what it remembers: any other place is new power, but for a first one nearby."""
    is_nearby = old is None and isinstance(new, str) and _NEARBY.fullmatch(new) is not None
    yield from text(place, old, new) if is_nearby else target(place, old, new)


def _provider(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """Who runs a model: nobody new, if the old document sent something there already."""
    is_known = old is None and isinstance(new, str) and place.models.is_known(new)
    yield from text(place, old, new) if is_known else target(place, old, new)


_RAG_STRATEGY: Mapping[str, Rule] = {
    **{"type": text, "docs": grants, "database": target, "embedding_model": models, "chat_model": models},
    **{"semantic_prompt": instruction, "respect_vcs": confines_by_default},
    **dict.fromkeys(
        (
            *("similarity_metric", "vector_dimensions", "k1", "b", "threshold", "limit", "chunking", "ast_context"),
            *("embedding_batch_size", "max_embedding_concurrency", "max_indexing_concurrency"),
        ),
        text,
    ),
}

_RAG: Mapping[str, Rule] = {
    "docs": grants,
    "respect_vcs": confines_by_default,
    "strategies": rows(_RAG_STRATEGY),
    "tool": nested({"name": target, "description": text, "instruction": instruction}),
    "results": nested(
        {
            "return_full_content": enables,
            "reranking": nested({"model": models, "criteria": text, "top_k": text, "threshold": text}),
            **dict.fromkeys(("limit", "fusion", "deduplicate", "include_score"), text),
        }
    ),
}

TOOL: Mapping[str, Rule] = {
    **{"type": target, "ref": target, "command": target, "args": hidden, "url": address},
    # What limits it.
    **{"tools": only, "readonly": confines, "safer": confines, "ignore_vcs": confines_by_default},
    **{"allow_list": only, "allowed_domains": only, "allowed_servers": only},
    **{"deny_list": blocks, "blocked_domains": blocks, "blocked_servers": blocks},
    # What it reaches and runs.
    "remote": nested({"url": address, "transport_type": text, "headers": environment, "oauth": hidden}),
    "api_config": nested(
        {
            **{"name": target, "endpoint": address, "method": target, "headers": environment, "args": hidden},
            **{"instruction": instruction, "required": text, "output_schema": text},
        }
    ),
    "webhook_config": nested({"provider": text, "url": address, "headers": environment, "chat_id": target}),
    "rag_config": nested(_RAG),
    **{"env": environment, "env_file": grants, "headers": environment, "config": hidden, "path": _kept_in},
    **{"working_dir": target, "version": target, "shell": hidden, "post_edit": after_edits, "models": models},
    **{"allow_private_ips": enables, "sudo_askpass": enables, "model": models, "name": target},
    # What it is told.
    "instruction": instruction,
    **dict.fromkeys(("toon", "shared", "defer", "timeout", "file_types", "recall", "lifecycle"), text),
    **_RAG,
}
"""The fields of a toolset, or of a definition of one."""

SCRIPT: Mapping[str, Rule] = {
    **{"cmd": target, "working_dir": target, "env": environment, "args": hidden, "description": text, "required": text}
}
"""The fields of a tool that a script toolset defines."""

AGENT: Mapping[str, Rule] = {
    "model": models,
    "harness": hidden,
    "fallback": nested({"models": models, "retries": text, "cooldown": text}),
    **{"hooks": hooks, "skills": skills, "use_skills": grants, "commands": commands, "use_commands": grants},
    "code_mode_tools": enables,
    "add_environment_info": enables,
    **{"add_prompt_files": grants, "add_prompt_files_depth": target, "instruction_file": target},
    **{"readonly": confines, "safety": safety, "redact_secrets": confines_by_default},
    "max_iterations": ceiling,
    "max_consecutive_tool_calls": target,
    "budgets": blocks,
    "compaction_model": models,
    "cache": nested({"path": target, "enabled": text, "case_sensitive": text, "trim_spaces": text}),
    "instruction": instruction,
    **{"description": text, "welcome_message": text, "structured_output": text},
    **dict.fromkeys(
        (
            *("add_date", "num_history_items", "add_description_parameter", "max_old_tool_call_tokens"),
            *("max_tool_result_tokens", "session_compaction", "compaction_threshold"),
            *("name", "think", "todo"),  # version 0
        ),
        text,
    ),
    "memory": nested({"path": _kept_in}),  # version 0
}
"""The fields of an agent, but for those that name tools and other agents."""

_BUDGET: Mapping[str, Rule] = {"max_cost": ceiling, "max_tokens": ceiling, "max_time": target}

_MODEL: Mapping[str, Rule] = {
    **{"provider": _provider, "type": _provider, "model": text, "base_url": address, "token_key": target},
    **{"auth": hidden, "provider_opts": hidden, "env": environment, "unload_api": address},
    **dict.fromkeys(("first_available", "title_model", "compaction_model"), models),
    "routing": rows({"model": models, "examples": text}),
    **dict.fromkeys(
        (
            *("temperature", "max_tokens", "top_p", "frequency_penalty", "presence_penalty", "parallel_tool_calls"),
            *("track_usage", "thinking_budget", "task_budget", "compaction_threshold", "capabilities", "cost"),
            "api_type",
        ),
        text,
    ),
}

_METADATA = ("author", "license", "readme", "description", "version", "tags")


def _metadata(place: Place, old: Tree, new: Tree) -> Iterator[Change]:
    """What an author says to people, whatever it is."""
    names = dict.fromkeys((*_METADATA, *as_mapping(new), *as_mapping(old)), text)
    yield from nested(names)(place, old, new)


DOCUMENT: Mapping[str, Rule] = {
    "permissions": nested(
        {
            "allow": worded(grants, "allow {}", "no longer allow {}"),
            "deny": worded(blocks, "deny {}", "no longer deny {}"),
            "ask": worded(blocks, "ask before {}", "no longer ask before {}"),
        }
    ),
    "runtime": nested({"sandbox": confines, "network_allowlist": grants, "safety": safety}),
    "budget": nested(_BUDGET),
    "budgets": each("budget", nested(_BUDGET), limits=True),
    "providers": each("provider", nested(_MODEL)),
    "models": each("model", nested(_MODEL)),
    "commands": each("commands", commands),
    "skills": each("skills", skills),
    "flavors": hidden,
    "env": environment,
    "metadata": _metadata,
    "version": text,
}
"""The fields of a document, but for agents and the definitions of tools."""
