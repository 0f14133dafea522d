"""Where hemispheres come from: phantom, samples, cohorts and their splits."""
