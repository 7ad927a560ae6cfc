"""What a study leaves: the final, the exported checkpoint, and new studies begun from its trials."""
