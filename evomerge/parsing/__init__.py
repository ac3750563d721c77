"""Reading YAML and JSON files of users and other tools into plain values of checked types."""
