"""The handlers of a group's events: functions of the group and what happened, which yield effects."""
