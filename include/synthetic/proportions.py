"""How often each oddity of the legacy data occurs, with the section of docs/legacy-mdw.md that says so.

"[I]" marks a figure that no source gives and that is set here so that the case exists at all. A share named
``*_SHARE`` is of the rows of its own table unless its comment says otherwise.
"""

from __future__ import annotations

# How many rows at least show a kind of rare dirt, so that it survives in a tenth of the real size. [I]
FEW = 3

# --- Users (1.2, 1.21) ---
EMPTY_EMAIL_SHARE = 0.87  # 1.2: 7,857 of 9,101
INTERNAL_EMAIL_SHARE = 223 / 9_101  # 1.2: test accounts at an internal domain
MALFORMED_EMAIL_SHARE = 31 / 9_101  # 1.2: 62 are malformed or internal; half of them here
SHARED_EMAIL_EXCESS = 62 / 9_101  # 1.2: rows beyond the first of each shared address, doctors only
SHARED_EMAIL_ROWS_PER_ADDRESS = 9  # 1.2: 62 excess rows on 7 addresses
APOSTROPHE_EMAIL_SHARE = 12 / 9_101  # 1.2: named, no figure [I]
ODD_EMAIL_SHARE = 20 / 9_101  # 1.2: spaces around, capitals, plus signs, other scripts; no figure [I]
DOCTOR_SHARE_OF_OTHERS = 1_181 / 1_251  # 1.7: of the users without a patient row
DOCTOR_NAME_EXCESS = 122 / 1_181  # 1.2: of doctors, rows beyond the first of each repeated name
DOCTOR_NAME_ROWS_PER_NAME = 4  # 1.2: 122 excess rows on 40 names
DOCTOR_INACTIVE_SHARE = 166 / 1_181  # 1.2
DOCTOR_NEVER_IN_SHARE = 350 / 1_181  # 1.2
DOCTOR_WITH_PATIENT_SHARE = 440 / 1_181  # 1.7: 741 without any
PATIENT_INACTIVE_SHARE = 0.02  # [I]
PATIENT_NEVER_IN_SHARE = 0.8  # 1.2: NULL last_login exists; no figure for patients [I]
SUPERUSER_SHARE = 0.0006  # [I]
STAFF_FLAG_SHARE_OF_OTHERS = 0.05  # [I]
NO_GROUP_SHARE = 0.005  # [I]

# Names (1.2, 1.21 "Empty first or last names"); none of them has a figure. [I]
NAME_DIRT_SHARES = {
    "empty first": 0.004,
    "empty last": 0.003,
    "both empty": 0.0005,
    "trailing space": 0.003,
    "leading space": 0.001,
    "double space": 0.0005,
    "capitals": 0.004,
    "quotes": 0.0004,
    "comma": 0.0008,
    "tab": 0.0003,
    "newline": 0.0003,
    "backslash": 0.0003,
    "text NULL": 0.0003,
    "text \\N": 0.0003,
    "text n/a": 0.0003,
    "no-break space": 0.0003,
    "decomposed accent": 0.0003,
    "emoji": 0.0003,
    "test name": 0.0004,  # 1.4: a test name present three times
}

# --- Patients (1.4) ---
PATIENT_ID_STRIDE = 65  # ids above 523,000 for about 8,000 rows
ARCHIVED_SHARE = 0.16  # 1.4, 5.2: about 1,300 of 8,409
SUSPENDED_SHARE = 0.01  # [I]
NULL_SEX_SHARE = 0.04  # [I]
ZERO_SEX_SHARE = 0.02  # [I]
NULL_BIRTHDATE_SHARE = 0.04  # [I]
NULL_OFFICE_SHARE = 0.04  # section 4: 95.31 % of patients have an office
DANGLING_OFFICE_SHARE = 0.002  # [I]
NULL_DOCTOR_SHARE = 0.008  # [I]
DANGLING_DOCTOR_SHARE = 0.0011  # section 4: 99.89 % of the links load
PATIENT_STATUS_WEIGHTS = {1: 0.62, 4: 0.2, 2: 0.1, 10: 0.08}  # 1.4 gives the codes, not the shares [I]
SUFFIX_SHARE = 0.8457  # section 4: 7,151 of 8,456
NULL_PATIENT_UPDATED_SHARE = 0.05  # 1.4: "NULL happens" [I]
NULL_PATIENT_SUBMITTED_SHARE = 0.08  # [I]
FAR_DATES = 2  # one in the year 0999, one in 9999 [I]
# Text columns that hold JSON (1.4 schemes, 1.8 exports, 1.21): NULL, '', {}, malformed, the rest is valid. [I]
JSON_WEIGHTS = {"null": 0.25, "blank": 0.1, "empty": 0.2, "malformed": 0.02, "valid": 0.43}

# Several rows for one person, of all patients (task of the deduplication phase; 1.4: repeated names are real).
DUPLICATE_SHARE = 0.02
DUPLICATE_KIND_SHARES = {"exact": 0.25, "format": 0.25, "typo": 0.25, "swapped": 0.1, "no birth date": 0.15}
DUPLICATE_TRIPLE_SHARE = 0.05  # of duplicates: a third row of the same person
DUPLICATE_OTHER_OFFICE_SHARE = 0.15  # of duplicates
DUPLICATE_NULL_SEX_SHARE = 0.05  # of duplicates other than exact copies
# Different people who look alike, of all patients, per second row of a pair.
LOOKALIKE_SHARES = {"twins": 0.004, "parent and child": 0.003, "siblings on one e-mail": 0.004}

# --- Offices (1.5) ---
VALID_OFFICE_SHARE = 0.6
ODD_OFFICE_NAME_SHARE = 0.03  # [I]
# Of 896 rows; every spelling is free text, None is NULL.
COUNTRY_ROWS: dict[str | None, int] = {
    "USA": 553,
    "India": 155,
    "Japan": 110,
    "Thailand": 64,
    None: 4,
    "Vietnam": 3,
    "Australia": 3,
    "Philippines": 1,
    "Singapore": 1,
    "France": 1,
    "New Zealand": 1,
}

# --- Orders (1.8, 1.9, 5.2) ---
ORDER_STATUS_SHARES = {4: 0.8312, 1: 0.1454, 2: 0.0235}  # 0 and 3 were not seen in the sample: a FEW each
ORDER_DELETED_SHARE = 0.014
ORDER_WITHOUT_PATIENT_SHARE = 0.01  # section 4: orders whose patient was lost
MODEL_SCANNER_SHARES: dict[tuple[int | None, int | None], float] = {
    (1, None): 0.6397,
    (None, None): 0.225,
    (3, 2): 0.075,
    (1, 2): 0.0297,
    (3, 10): 0.018,
    (2, None): 0.0126,  # the share the five pairs leave
}
COURSE_WEIGHTS_FIRST = {1: 0.93, 3: 0.02, 4: 0.03, 7: 0.015, 8: 0.005}  # 1.9 gives the ids [I]
COURSE_WEIGHTS_LATER = {1: 0.06, 2: 0.78, 3: 0.1, 4: 0.03, 7: 0.02, 8: 0.01}  # [I]
CBCT_SHARE = 954 / 2_387
COMPREHENSIVE_SHARE = 1_106 / 2_387
ACCEPT_EXTRACTION_SHARE = 419 / 2_387
NULL_FLAG_SHARE = 0.05  # [I]
NULL_PRICE_SHARE = 0.04  # [I]
MAX_PRICE = 997
MEAN_PRICE = 564.63
NULL_ORDER_UPDATED_SHARE = 0.04  # [I]
NULL_ORDER_SUBMITTED_SHARE = 0.03  # [I]
NOTES_WITH_NAME_SHARE = 0.03  # of notes: the text names the patient [I]
UNUSED_JAW_SHARE = 343 / 18_764
MALFORMED_JAW_SHARE = 0.0005  # [I]
MISSING_JAW_REASON_SHARE = 0.7  # [I]

# --- Projects and plans (1.10, 1.11, 5.2) ---
PROJECT_ID_STRIDE = 2  # ids above 135,000 for 66,904 rows
PROJECT_TYPE_SHARES = {0: 0.3, 10: 0.1, 11: 0.08}  # 1.10: only 52 % for type 3 is measured; the rest is 3
UNKNOWN_PROJECT_TYPE = 99  # a FEW rows [I]
PROJECT_STATUS_2_SHARE = 0.0002
EMPTY_PROJECT_NAME_SHARE = 0.8  # 1.10: "very often" [I]
NUMERIC_PROJECT_NAME_SHARE = 0.7  # of the names that are not empty [I]
NULL_CREATOR_SHARE = 0.05  # [I]
DANGLING_CREATOR_SHARE = 0.001  # [I]
PUBLIC_PROJECT_SHARE = 0.02  # [I]
PROJECT_WITHOUT_PLAN_SHARE = 0.2  # 1.21: "present, count unclear" [I]
PLAN_WITHOUT_ORDER_SHARE = 0.002  # [I]
NULL_PLAN_NUMBER_SHARE = 0.01  # 1.11: nullable [I]

# --- States (1.12) ---
STATE_11_SHARE = 2_599 / 4_751
ORDERS_WITHOUT_STATE_SHARE = 0.6  # of the orders of the years in which states were kept
STATES_PER_ORDER_WEIGHTS = (0.36, 0.37, 0.16, 0.07, 0.03, 0.01)  # 1 to 6; 4,552 rows on 2,254 orders
NULL_ACTOR_SHARE = 0.02  # 1.12: about 4.3 % do not resolve, NULL and dangling together
DANGLING_ACTOR_SHARE = 0.0228
STATE_WITHOUT_ORDER_SHARE = 199 / 4_751
STATE_ON_SHARE = 0.7  # [I]
STATE_YEAR_ROWS = {2018: 17, 2019: 40, 2020: 53, 2021: 229, 2022: 653, 2023: 663, 2024: 1_745, 2025: 1_152}
STATE_OUT_OF_TIME_SHARE = 0.15  # 1.12: ids and dates are not monotonic together [I]

# --- Workflow (1.13, 1.14) ---
TEMPLATE_WITHOUT_CATEGORY_SHARE = 0.08  # [I]
TASK_DONE_SHARE = 0.8  # [I]
TASK_TEXT_SHARE = 0.08  # [I]
TASK_PLAN_SHARE = 0.15  # [I]
TASK_WITHOUT_ORDER_SHARE = 0.0005  # no constraint guards it [I]
TASK_WITHOUT_TEMPLATE_SHARE = 0.0002  # [I]
TASK_NULL_ACTOR_SHARE = 0.05  # of done tasks [I]
