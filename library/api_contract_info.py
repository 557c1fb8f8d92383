#!/usr/bin/python
"""Hold an HTTP API to its declared contract, and to its baseline."""

from __future__ import annotations

DOCUMENTATION = r"""
module: api_contract_info
short_description: Compare an HTTP API with its declared contract and its baseline
description:
  - Requests each declared endpoint several times, one request after the other, and judges the answers.
  - A failed proof does not fail the module. The module fails only if it cannot check, as with an invalid base URL.
  - Redirects are followed only within the scheme, host and port of O(base_url). No proxy is used.
extends_documentation_fragment: [run]
options:
  base_url:
    description: Base URL of the API. A login in it is used, but appears in no message and no journal line.
    type: str
    required: true
  ca_file:
    description: File on the target with the authorities of the API's certificate; where it is empty, the usual ones.
    type: path
    default: ""
  mode:
    description:
      - V(observe) records how the API answers, before the release, as step C(api_baseline) of the journal. It proves
        C(api_baseline.<endpoint>.status) and C(api_baseline.<endpoint>.shape), which there covers only the kind of
        answer. As a task it fails where one of them fails.
      - V(verify) compares with the newest such record of the same release and environment, as step C(api). It proves
        C(api.<endpoint>.status), C(.shape), C(.latency) and, of a list, C(.count). Without a record only the declared
        contract is judged, and the claims that need one are skipped. A list that became shorter fails, unless
        this run observed in the tables that others deleted or changed as many rows since, which is inconclusive.
    type: str
    choices: [observe, verify]
    required: true
  other_rows:
    description:
      - Whether the tables contain rows of another time than the record, as after a restore. The number of items of a
        list is then no evidence about the API.
    type: bool
    default: false
  judge_latency:
    description:
      - Whether answers that are too slow fail. After a rollback the release is not the cause, and they are
        inconclusive.
    type: bool
    default: true
  api:
    description: The contract, as the release declares it.
    type: dict
    required: true
    suboptions:
      timeout_seconds:
        description: How long one answer may take.
        type: float
        required: true
      latency:
        description: The limits of the median of the answers' durations.
        type: dict
        required: true
        suboptions:
          requests:
            description: Number of requests to each endpoint.
            type: int
            required: true
          factor:
            description: The median may be this much longer than that of the baseline.
            type: float
            required: true
          floor_ms:
            description: A median up to this never fails.
            type: float
            required: true
      endpoints:
        description: The endpoints to request.
        type: list
        elements: dict
        required: true
        suboptions:
          name:
            description: Names the endpoint in proofs.
            type: str
            required: true
          path:
            description: Path and query, behind O(base_url).
            type: str
            required: true
          status:
            description: The status that every answer must have.
            type: int
            required: true
          kind:
            description: The JSON type of the answer.
            type: str
            choices: [list, object]
            required: true
          items:
            description:
              - Where in the answer its list is, as a key or as a JSON pointer such as V(/data/rows). Its items are then
                compared with the baseline.
            type: str
          keys:
            description:
              - The keys that the object, or each item of the list, must have at least. With kind V(list) they are those
                of the list at O(api.endpoints[].items).
            type: list
            elements: str
            required: true
attributes:
  check_mode:
    support: full
    description: Reads as usual; the journal is not written.
  diff_mode:
    support: none
    description: There is nothing to compare.
author: The authors of dbrelease
"""

EXAMPLES = r"""
- name: Hold the API to its contract
  api_contract_info:
    run: "{{ run }}"
    base_url: http://localhost:8080
    mode: verify
    api:
      timeout_seconds: 10
      latency: {requests: 10, factor: 3.0, floor_ms: 250}
      endpoints:
        - {name: orders, path: /api/orders, status: 200, kind: list, keys: [id, account_id, total]}
  register: contract
"""

RETURN = r"""
proofs:
  description: One for each claim, with C(name), C(title), C(status), C(expected), C(observed), C(detail) and C(remedy).
  type: list
  elements: dict
  returned: always
message:
  description: One sentence for each claim that failed; empty if all passed.
  type: str
  returned: always
endpoints:
  description:
    - The answers of each endpoint, by its name. C(status) and C(kind) are those of the first answer that was not as
      declared, else of the last one; C(keys) those of any item and C(optional_keys) those of them that not every item
      has; C(below) those of the items in an object's lists; C(count) the number of items of a list; C(latency_ms) in
      milliseconds, of the answers with the declared status.
  type: dict
  returned: always
  sample:
    orders:
      status: 200
      kind: list
      keys: [account_id, id, total]
      optional_keys: []
      below: []
      count: 100
      latency_ms: {p50: 12.1, p95: 15.0, max: 15.3}
      requests: 10
compared:
  description: Whether there was a baseline to compare with; always false with O(mode=observe).
  type: bool
  returned: always
"""

from ansible.module_utils.dbrelease.core.options import RUN_OPTIONS, Options
from ansible.module_utils.dbrelease.module import run_module
from ansible.module_utils.dbrelease.verify import api

OPTIONS: Options = {**RUN_OPTIONS, **api.OPTIONS}
act = api.act


def main() -> None:
    """Run the module."""
    run_module(OPTIONS, act)


if __name__ == "__main__":
    main()
