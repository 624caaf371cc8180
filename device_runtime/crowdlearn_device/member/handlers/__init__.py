"""The handlers of a member's events: functions of the member and what happened, which yield effects."""
