"""Looking inside: probes, interventions, gradient onset, block diagrams, the x-ray."""
