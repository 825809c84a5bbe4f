"""Models of the legacy tables (docs/legacy-mdw.md sections 1.4 to 1.14), as its app `dispatch` would have them.

References that dangle in the real source (docs/legacy-mdw.md section 1.21) have no constraint here either.
"""

from __future__ import annotations

from django.contrib.auth.models import Group, User
from django.db import models


class Office(models.Model):
    name = models.CharField(max_length=255, null=True)
    address = models.CharField(max_length=255, null=True)
    apt = models.CharField(max_length=50, null=True)
    city = models.CharField(max_length=100, null=True)
    state = models.CharField(max_length=100, null=True)
    zip = models.CharField(max_length=20, null=True)
    country = models.CharField(max_length=100, null=True)
    phone = models.CharField(max_length=50, null=True)
    tax_rate = models.DecimalField(max_digits=7, decimal_places=4)
    valid = models.BooleanField()
    sq_customer_id = models.CharField(max_length=255, null=True)
    emails = models.BooleanField()
    doctors = models.ManyToManyField(User)

    class Meta:
        app_label = "dispatch"


class Patient(models.Model):
    user = models.ForeignKey(User, models.CASCADE)
    doctor = models.ForeignKey(User, models.SET_NULL, null=True, related_name="+", db_constraint=False)
    office = models.ForeignKey(Office, models.SET_NULL, null=True, db_constraint=False)
    birthdate = models.DateField(null=True)
    sex = models.IntegerField(null=True)
    status = models.IntegerField()
    archived = models.BooleanField()
    suspended = models.BooleanField()
    schemes = models.TextField(null=True)
    suffix = models.CharField(max_length=10, null=True)
    submitted_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "dispatch"


class Course(models.Model):
    name = models.CharField(max_length=100)

    class Meta:
        app_label = "dispatch"


class Product(models.Model):
    name = models.CharField(max_length=100)

    class Meta:
        app_label = "dispatch"


class Jaw(models.Model):
    bond_teeth = models.CharField(max_length=16)
    extract_teeth = models.CharField(max_length=16)
    reason = models.IntegerField(null=True)
    product = models.ForeignKey(Product, models.SET_NULL, null=True)
    labial = models.BooleanField()

    class Meta:
        app_label = "dispatch"


class Instruction(models.Model):
    patient = models.ForeignKey(Patient, models.CASCADE, db_constraint=False)
    course = models.ForeignKey(Course, models.PROTECT)
    order = models.IntegerField(null=True)
    model = models.IntegerField(null=True)
    scanner = models.IntegerField(null=True)
    scanner_notes = models.TextField(null=True)
    upper_jaw = models.ForeignKey(Jaw, models.SET_NULL, null=True, related_name="+")
    lower_jaw = models.ForeignKey(Jaw, models.SET_NULL, null=True, related_name="+")
    notes = models.TextField(null=True)
    conditions = models.TextField(null=True)
    complaint = models.TextField(null=True)
    objective = models.TextField(null=True)
    exports = models.TextField(null=True)
    price = models.DecimalField(max_digits=10, decimal_places=2, null=True)
    status = models.IntegerField()
    cbct = models.BooleanField(null=True)
    accept_extraction = models.BooleanField(null=True)
    comprehensive = models.BooleanField(null=True)
    deleted = models.BooleanField()
    suffix = models.CharField(max_length=10)
    submitted_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "dispatch"


class Project(models.Model):
    uid = models.UUIDField(unique=True)
    name = models.CharField(max_length=255)
    size = models.BigIntegerField()
    type = models.IntegerField()
    status = models.IntegerField()
    creator = models.ForeignKey(User, models.SET_NULL, null=True, db_constraint=False)
    created_at = models.DateTimeField()
    public = models.BooleanField()

    class Meta:
        app_label = "dispatch"


class Plan(models.Model):
    instruction = models.ForeignKey(Instruction, models.CASCADE, db_constraint=False)
    project = models.ForeignKey(Project, models.CASCADE)
    notes = models.TextField(null=True)
    number = models.IntegerField(null=True)
    name = models.CharField(max_length=255, null=True)
    original = models.BooleanField()

    class Meta:
        app_label = "dispatch"


class State(models.Model):
    status = models.IntegerField()
    on = models.BooleanField()
    changed_at = models.DateTimeField()
    actor = models.ForeignKey(User, models.SET_NULL, null=True, db_constraint=False)
    instruction = models.ForeignKey(Instruction, models.CASCADE, db_constraint=False)

    class Meta:
        app_label = "dispatch"


class Category(models.Model):
    name = models.CharField(max_length=100)
    parent = models.ForeignKey("self", models.CASCADE, null=True)

    class Meta:
        app_label = "dispatch"


class Role(models.Model):
    name = models.CharField(max_length=100)
    abbrev = models.CharField(max_length=20)

    class Meta:
        app_label = "dispatch"


class Template(models.Model):
    task_name = models.CharField(max_length=255, null=True)
    function = models.IntegerField(null=True)
    predefined = models.BooleanField()
    status = models.IntegerField(null=True)
    action_name = models.CharField(max_length=255, null=True)
    text_name = models.CharField(max_length=255, null=True)
    duration = models.IntegerField(null=True)
    category = models.ForeignKey(Category, models.SET_NULL, null=True)
    course = models.ForeignKey(Course, models.SET_NULL, null=True)
    read_only = models.BooleanField()
    extensions = models.CharField(max_length=255, null=True)
    edit_roles = models.ManyToManyField(Role, related_name="+")
    view_roles = models.ManyToManyField(Role, related_name="+")
    view_groups = models.ManyToManyField(Group)
    products = models.ManyToManyField(Product)
    predecessors = models.ManyToManyField("self", symmetrical=False)

    class Meta:
        app_label = "dispatch"


class Task(models.Model):
    template = models.ForeignKey(Template, models.CASCADE, db_constraint=False)
    instruction = models.ForeignKey(Instruction, models.CASCADE, db_constraint=False)
    plan = models.ForeignKey(Plan, models.SET_NULL, null=True)
    actor = models.ForeignKey(User, models.SET_NULL, null=True)
    checked = models.BooleanField()
    done_at = models.DateTimeField(null=True)
    text = models.TextField(null=True)
    jaw = models.IntegerField(null=True)

    class Meta:
        app_label = "dispatch"
