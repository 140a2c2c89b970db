"""What motion tells about who moved: probes of the motion tokens, beside what the true joints and the pixels tell."""
