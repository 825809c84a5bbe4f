// What the page calls things, and values of patients made safe to look at.

export const STATUSES = {
  pending: "Waiting",
  asked_again: "Second look",
  auto_merged: "Merged by a run",
  confirmed: "Confirmed",
  rejected: "Rejected",
  stale: "No pair any more",
};

export const FIELDS = {
  first_name: "First name",
  last_name: "Surname",
  date_of_birth: "Birth date",
  gender: "Sex",
  email: "E-mail",
  suffix: "Suffix",
  practice_id: "Practice",
  primary_doctor_id: "Doctor",
};

export const BESIDE = {
  patient_number: "Patient number",
  archived: "Archived",
  created_at: "Entered",
  updated_at: "Last changed",
  cases: "Cases",
  projects: "Projects",
};

export const STATES = {
  live: "a patient of its own",
  merged: "merged into another one",
  deleted: "gone from the source",
  quarantined: "in quarantine",
  unknown: "not migrated",
};

export const REASONS = {
  "Likely the same": ["typing error", "name changed", "registered twice", "asked: same person"],
  "Likely two": ["twins", "parent and child", "same name, two people", "asked: two people"],
};

// Characters that show nothing, or turn the text around: two values may differ in nothing else.
const INVISIBLE = /[\u0000-\u001f\u007f-\u00a0\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

export function visible(text) {
  return text.replace(INVISIBLE, (sign) => `⟨${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

// Never rounded up to what it is not.
export function percent(score) {
  if (score === null) return "not scored";
  if (score < 1 && score >= 0.9995) return "over 99.9 %";
  return `${(score * 100).toFixed(1)} %`;
}

export function nameOf(name) {
  if (!name) return "not there any more";
  const words = [name.first_name, name.last_name].filter(Boolean).map(visible).join(" ");
  return [words || "no name", name.date_of_birth].filter(Boolean).join(", ");
}

// How two values of a field compare; the sign and the words say it, colour only repeats it.
export function compared(left, right) {
  const [one, other] = [left ?? "", right ?? ""];
  if (one === other) return one === "" ? ["empty", "both empty"] : ["same", "= same"];
  if (one === "") return ["missing", "only right"];
  if (other === "") return ["missing", "only left"];
  return ["differs", "≠ differs"];
}
