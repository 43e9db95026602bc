"""Networks that are learned layer by layer: FedACnnL, pFedACnnL, and their encoders."""
