"""Networks trained layer by layer: FedACnnL, pFedACnnL, and their encoders."""
