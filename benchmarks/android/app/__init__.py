"""The app compiled, dexed, linked and signed without Android's SDK and Gradle: a check, no release."""
